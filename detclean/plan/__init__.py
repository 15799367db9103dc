"""What a run will cost, said before it begins."""

from detclean.plan.plan import Plan, describe_plan, make_plan

__all__ = ["Plan", "describe_plan", "make_plan"]
