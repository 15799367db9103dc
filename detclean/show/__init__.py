"""What a person sees: progress, summary, pictures, issue lists."""
