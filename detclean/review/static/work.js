// Work that waits for the work before it: a key pressed while a decision is on its way is for what comes after, and none is done twice.

// told: failed(error) when work throws, dropped() when work that a person asked for is left undone.
export function createWork(told) {
  let chain = Promise.resolve();
  let round = 0; // goes up whenever something is said that a person has to read first

  function add(job) {
    chain = chain.then(job).catch((error) => {
      round += 1;
      told.failed(error);
    });
    return chain;
  }

  return {
    add,
    // What a person asked for: it is left undone where something went wrong meanwhile, or where it is no longer `meant` when its turn comes.
    ask(job, meant = () => true) {
      const asked = round;
      return add(() => (asked === round && meant() ? job() : told.dropped()));
    },
    // The person is asked something: what was pressed before is no answer.
    interrupt() {
      round += 1;
    },
  };
}
