//! What happens in a world, from a seed: requests of all kinds, and what breaks meanwhile; then all is healed, everything must
//! settle, and the judge looks at it.

use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use ws_daemon::spool::{ClaimState, Filter, RunState};

use crate::book::{Book, Entry};
use crate::judge::{Sum, judge};
use crate::scripts::THEN;
use crate::world::World;

/// How long everything may take to settle once all is healed: some pings, patience with an absent peer, and back-offs.
const SETTLING: Duration = Duration::from_mins(20);

/// Tells the story of a seed.
pub async fn tell(seed: u64, root: &Path, book: Book) -> Sum {
    let mut rng = fastrand::Rng::with_seed(seed);
    let daemons = rng.usize(2..=4);
    // A third of the stories have no crash: then nothing may be unknown.
    let crashes = rng.u8(..3) > 0;
    let mut world = World::new(root, daemons, rng.u64(..), book);
    for _ in 0..rng.u32(20..60) {
        sleep(Duration::from_millis(rng.u64(0..1200))).await;
        step(&mut world, &mut rng, crashes);
        if rng.u8(..40) == 0 {
            // Long enough for pings to be missed.
            sleep(Duration::from_mins(1)).await;
        }
    }
    world.heal();
    // Whoever was not answered asks again; whoever was, may.
    let ids: Vec<String> = world.book.pages().entries.keys().cloned().collect();
    let since = Instant::now();
    while !(0..daemons).all(|daemon| world.parts(daemon).is_some()) && since.elapsed() < SETTLING {
        sleep(Duration::from_millis(100)).await;
    }
    for id in &ids {
        world.submit(id);
    }
    sleep(Duration::from_secs(5)).await;
    while !world.is_quiet() && since.elapsed() < SETTLING {
        sleep(Duration::from_secs(1)).await;
    }
    if !world.is_quiet() {
        let left = left(&world).await;
        world.book.fault(format!("not quiet: {left:#?}"));
    }
    sleep(Duration::from_secs(5)).await;
    let unheard: Vec<String> = {
        let pages = world.book.pages();
        pages.entries.iter().filter(|(_, entry)| entry.finals.is_empty()).map(|(id, _)| id.clone()).collect()
    };
    for id in &unheard {
        world.book.fault(format!("{id} has no final line"));
    }
    judge(&world).await
}

/// What keeps a world from being quiet.
async fn left(world: &World) -> Vec<String> {
    let mut left = Vec::new();
    for daemon in 0..world.sites.len() {
        let Some(life) = world.life(daemon) else { continue };
        let all = Filter { state: None, peer: None, limit: 10_000 };
        let claims = life.spool.claims(all.clone()).await.expect("the disk is well");
        let claims = claims.iter().filter(|claim| claim.state != ClaimState::Acknowledged);
        left.extend(claims.map(|claim| format!("d{daemon} has {claim:?}")));
        let runs = life.spool.runs(all).await.expect("the disk is well");
        let runs = runs.iter().filter(|run| run.state != RunState::Settled);
        left.extend(runs.map(|run| format!("d{daemon} waits for {run:?}")));
    }
    left
}

/// One thing that happens.
fn step(world: &mut World, rng: &mut fastrand::Rng, crashes: bool) {
    let daemon = rng.usize(..world.sites.len());
    let client = rng.usize(1..world.sites.len());
    match rng.u8(..100) {
        0..34 => new_request(world, rng, daemon),
        34..40 => with_known(world, rng, false, World::submit),
        40..44 => with_known(world, rng, true, World::conflict),
        44..48 => with_known(world, rng, true, World::cancel),
        48..56 if crashes => world.crash(daemon),
        56..68 => world.start(daemon),
        68..78 => {
            let cables = world.cables(client);
            if let Some(cable) = rng.choice(&cables) {
                world.book.note(format!("a cable of d{client} is held: {}", !cable.is_held()));
                cable.hold(!cable.is_held());
            }
        }
        78..90 => {
            if let Some(cable) = world.cables(client).last() {
                let ends = rng.u8(1..4);
                world.book.note(format!("the cable of d{client} is cut ({ends})"));
                (0..2).filter(|end| ends & (1 << end) != 0).for_each(|end| cable.cut(end));
            }
        }
        90..94 => {
            let blocked = rng.bool();
            world.book.note(format!("d{client} is away: {blocked}"));
            world.block(client, blocked);
            world.cables(client).iter().for_each(|cable| cable.hold(blocked));
        }
        _ => world.dial_again(client),
    }
}

/// A request of any kind, of any daemon that is up.
fn new_request(world: &mut World, rng: &mut fastrand::Rng, asker: usize) {
    let number = world.book.pages().entries.len();
    let (id, code, ms) = (format!("r{number}"), rng.u8(..3), [0, 20, 400, 5000][rng.usize(..4)]);
    let retry = if rng.u8(..4) == 0 { rng.u32(1..3) } else { 0 };
    let has_then = rng.u8(..4) == 0;
    let mut text = format!(r#"{{"name":"work","id":"{id}","params":{{"ms":{ms},"code":{code}}},"queue":true"#);
    if retry > 0 {
        text += &format!(r#","retry":{{"max":{retry}}}"#);
    }
    if has_then {
        text += &format!(r#","then":"{THEN}""#);
    }
    if asker == 0 && rng.u8(..3) == 0 {
        text += &format!(r#","to":"d{}""#, rng.usize(1..world.sites.len()));
    }
    text.push('}');
    let entry = Entry { asker, text, retry, has_then, code, ..Entry::default() };
    world.book.pages().entries.insert(id.clone(), entry);
    world.submit(&id);
}

/// Does something with a request that was asked before, and, if `accepted`, is known to be on disk.
fn with_known(world: &mut World, rng: &mut fastrand::Rng, accepted: bool, act: impl FnOnce(&mut World, &str)) {
    let ids: Vec<String> = {
        let pages = world.book.pages();
        let known = pages.entries.iter().filter(|(_, entry)| !accepted || entry.run.is_some());
        known.map(|(id, _)| id.clone()).collect()
    };
    if let Some(id) = rng.choice(&ids) {
        act(world, id);
    }
}
