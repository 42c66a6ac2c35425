//! One seed from beginning to end: trouble, then peace, then rest, then the end of the host; and what
//! must hold at each.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::clock::SEC;
use crate::trouble::Armed;
use crate::world::{Violation, World};

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The hash of all that happened.
    pub hash: u64,
    /// Turns of the loop.
    pub turns: u64,
    /// Simulated time in nanoseconds.
    pub simulated: u64,
    /// Requests submitted, of which so many succeeded and failed.
    pub requests: (u64, u64, u64),
    /// Writes may have been carried out long after their connection had died, past any fence.
    pub late: bool,
    /// A rule that did not hold.
    pub violation: Option<String>,
    /// A block had a value that it cannot have had, in a run where writes were carried out late and
    /// nothing was sure to fence them. Not a violation: it is what goes wrong without fencing.
    pub unfenced: Option<String>,
}

/// Runs a seed; `aloud` prints what happens.
#[must_use]
pub fn run(seed: u64, aloud: bool) -> Outcome {
    let mut world = World::new(seed, aloud);
    let result = catch_unwind(AssertUnwindSafe(|| world.live()));
    let violation = match result {
        Ok(Ok(())) => None,
        Ok(Err(Violation(text))) => Some(text),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Some(format!("panic: {}", text.unwrap_or("?")))
        }
    };
    // What one history cannot be is the last rule: without it the others say more.
    let history = world.load.history.verify().err();
    let (hash, now) = (world.net.lock().trace.hash(), world.now());
    let open = world.plan.late && !world.plan.fenced;
    let (unfenced, wrong) = if open { (history, None) } else { (None, history) };
    let load = &world.load;
    let outcome = Outcome {
        seed,
        hash,
        turns: world.turns,
        simulated: now - SEC,
        requests: (load.submitted, load.succeeded, load.failed),
        late: open,
        violation: violation.or(wrong),
        unfenced,
    };
    if outcome.violation.as_ref().is_some_and(|v| v.starts_with("panic")) {
        // What a panic has left half done is not to be touched again.
        std::mem::forget(world);
    }
    outcome
}

impl World {
    fn live(&mut self) -> Result<(), Violation> {
        let mut armed = Armed::new();
        self.begin()?;
        if self.dice.once_in(6) {
            self.hedge()?;
        }
        let rounds = self.dice.between(10, 60);
        for _ in 0..rounds {
            self.round(&mut armed)?;
        }
        match self.dice.roll(8) {
            0 | 1 => self.shut_down(true),
            2 => self.drop_host(),
            _ => {
                self.make_peace(&mut armed)?;
                self.recover()?;
                self.read_all()?;
                self.rest()?;
                let force = self.dice.once_in(2);
                self.shut_down(force)
            }
        }
    }

    /// The first connections, mostly without trouble.
    fn begin(&mut self) -> Result<(), Violation> {
        let time = self.dice.of(&[SEC / 1000, SEC / 50, SEC / 20]);
        self.run_for(time)
    }

    fn round(&mut self, armed: &mut Armed) -> Result<(), Violation> {
        for _ in 0..self.dice.roll(5) {
            self.submit()?;
        }
        if self.dice.once_in(3) {
            self.disturb(armed)?;
        }
        let pause = self.pause();
        self.run_for(pause)
    }
}
