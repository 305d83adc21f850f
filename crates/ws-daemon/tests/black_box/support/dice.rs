//! The dice of a campaign: seeded, printed, and to be thrown again by naming the seed; and how long a campaign lasts. They decide
//! when something happens, never whether it was right.

use std::env;
use std::time::Duration;

use rustix::event::{Timespec, poll};

/// The seed is printed, so that whoever sees a failure can have the same dice.
pub fn dice(campaign: &str) -> (fastrand::Rng, u64) {
    let seed = number("WSDAEMON_CRASH_SEED").unwrap_or_else(|| fastrand::u64(..1 << 32));
    eprintln!("{campaign}: WSDAEMON_CRASH_SEED={seed}");
    (fastrand::Rng::with_seed(seed), seed)
}

/// A number in the environment, by which long forms are asked for.
pub fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text:?}")))
}

/// Lets a moment pass that the dice chose: nothing is waited for, something is about to be done in the middle of something else.
pub fn pass(moment: Duration) {
    let timeout =
        Timespec { tv_sec: moment.as_secs().try_into().expect("moments are short"), tv_nsec: moment.subsec_nanos().into() };
    // An interrupted moment is a shorter one.
    let _ = poll(&mut [], Some(&timeout));
}
