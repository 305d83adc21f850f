//! What a caller is answered, against a model of a few lines: an id stands for the content that it was first accepted with, and
//! for one run of it, whatever is crashed or cut between two questions.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::{Just, ProptestConfig, Strategy, any};
use proptest::test_runner::TestCaseError;
use proptest::{prop_oneof, proptest};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use ws_daemon::origin::Said;
use ws_daemon_protocol::event::Event;

use crate::book::{Book, Entry};
use crate::judge::judge;
use crate::seeds::{keep_panics, panics, root, runtime};
use crate::world::World;

const CASES: u32 = 128;

/// Longer than anything takes that is not broken for ever.
const LONG: Duration = Duration::from_mins(20);

/// What a caller does, or what breaks.
#[derive(Debug, Clone)]
enum Step {
    /// Asks for this content under this id, perhaps not for the first time.
    Submit {
        id: u8,
        content: bool,
    },
    /// The same twice at the same moment.
    SubmitTwice {
        id: u8,
        content: bool,
    },
    /// Asks, and has the link cut when the outcome is at home and the acknowledgement on its way.
    LoseAcknowledgement {
        id: u8,
        content: bool,
    },
    CrashAsker,
    /// It stays away until something brings it back.
    CrashDoer,
    CutLink,
    /// Whoever is away comes back.
    Reconnect,
    Wait {
        ms: u16,
    },
}

/// The content that an id stands for, and the run.
#[derive(Debug, Default)]
struct Model(BTreeMap<u8, (bool, String)>);

impl Model {
    /// Whether this answer is right.
    fn check(&mut self, id: u8, content: bool, answer: &Result<String, String>) -> bool {
        match (self.0.get(&id), answer) {
            (None, Ok(run)) => self.0.insert(id, (content, run.clone())).is_none(),
            (Some((known, run)), Ok(same)) => *known == content && run == same,
            (Some((known, _)), Err(word)) => *known != content && word == "id_conflict",
            (None, Err(_)) => false,
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let asked = || (0..4_u8, proptest::bool::weighted(0.2));
    vec(
        prop_oneof![
            4 => asked().prop_map(|(id, content)| Step::Submit { id, content }),
            2 => asked().prop_map(|(id, content)| Step::SubmitTwice { id, content }),
            3 => asked().prop_map(|(id, content)| Step::LoseAcknowledgement { id, content }),
            2 => Just(Step::CrashAsker),
            2 => Just(Step::CrashDoer),
            2 => Just(Step::CutLink),
            3 => Just(Step::Reconnect),
            2 => any::<u16>().prop_map(|ms| Step::Wait { ms: ms / 8 }),
        ],
        1..16,
    )
}

fn text(id: u8, content: bool) -> String {
    let name = if content { "other" } else { "work" };
    format!(r#"{{"name":"{name}","id":"{id}","params":{{"ms":300,"code":{}}},"queue":true}}"#, id % 2)
}

/// The asker and the doer; one of them is the server.
struct Stage {
    world: World,
    asker: usize,
    model: Model,
}

impl Stage {
    async fn step(&mut self, step: &Step) {
        self.world.book.note(format!("{step:?}"));
        match *step {
            Step::Submit { id, content } => drop(self.ask(id, content).await),
            Step::SubmitTwice { id, content } => {
                let first = self.world.ask(self.asker, &text(id, content)).expect("it is up");
                drop(self.ask(id, content).await);
                self.hear(id, content, first).await;
            }
            Step::LoseAcknowledgement { id, content } => self.lose_acknowledgement(id, content).await,
            Step::CrashAsker => {
                self.world.crash(self.asker);
                self.come_up(self.asker).await;
            }
            Step::CrashDoer if self.asker == 0 => self.world.crash(1),
            Step::CrashDoer => self.world.crash(0),
            Step::CutLink => self.world.cables(1).iter().for_each(|cable| (0..2).for_each(|end| cable.cut(end))),
            Step::Reconnect => self.world.heal(),
            Step::Wait { ms } => sleep(Duration::from_millis(ms.into())).await,
        }
    }

    async fn come_up(&mut self, daemon: usize) {
        self.world.start(daemon);
        self.world.life(daemon).expect("started").up().await;
    }

    /// Asks, and has the model look at the answer. The run, if it was accepted.
    async fn ask(&mut self, id: u8, content: bool) -> Option<String> {
        let said = self.world.ask(self.asker, &text(id, content)).expect("it is up");
        self.hear(id, content, said).await
    }

    async fn hear(&mut self, id: u8, content: bool, mut said: mpsc::Receiver<Said>) -> Option<String> {
        let answer = match said.recv().await {
            Some(Said::Event(Event::Accepted { run, .. })) => Ok(run.to_string()),
            Some(Said::Final(report)) => Err(report.error.unwrap_or_default()),
            other => Err(format!("{other:?}")),
        };
        if !self.model.check(id, content, &answer) {
            self.world.book.fault(format!("{id} with content {content} was answered {answer:?}: {:?}", self.model));
        }
        let run = answer.ok()?;
        let (asker, code) = (self.asker, id % 2);
        let entry = Entry { asker, text: text(id, content), code, run: Some(run.clone()), ..Entry::default() };
        self.world.book.pages().entries.entry(id.to_string()).or_insert(entry);
        self.world.listen(&id.to_string(), said, true);
        Some(run)
    }

    async fn lose_acknowledgement(&mut self, id: u8, content: bool) {
        let Some(run) = self.ask(id, content).await else { return };
        let within = Instant::now() + Duration::from_secs(20);
        let is_settled = |world: &World| world.book.pages().told.contains_key(&run);
        while self.world.counts.starts(&run).is_empty() && Instant::now() < within {
            sleep(Duration::from_millis(1)).await;
        }
        let cables = self.world.cables(1);
        // The client's end is the first, and it is asker 1.
        let end = usize::from(self.asker == 0);
        for cable in &cables {
            cable.hold_from(end, true);
        }
        while !is_settled(&self.world) && Instant::now() < within {
            sleep(Duration::from_millis(1)).await;
        }
        for cable in &cables {
            cable.cut(0);
            cable.cut(1);
            cable.hold(false);
        }
    }

    /// Everything is healed, every id is asked for once more, and all of it settles.
    async fn end(&mut self) {
        self.world.heal();
        for daemon in 0..2 {
            self.come_up(daemon).await;
        }
        let known: Vec<(u8, bool)> = self.model.0.iter().map(|(id, (content, _))| (*id, *content)).collect();
        for (id, content) in known {
            self.ask(id, content).await;
        }
        let within = Instant::now() + LONG;
        while !self.world.is_quiet() && Instant::now() < within {
            sleep(Duration::from_secs(1)).await;
        }
        if !self.world.is_quiet() {
            self.world.book.fault("not quiet");
        }
        sleep(Duration::from_secs(1)).await;
        let unheard = self.world.book.pages().entries.values().any(|entry| entry.finals.is_empty());
        if unheard {
            self.world.book.fault("a request has no final line");
        }
        judge(&self.world).await;
    }
}

fn play(steps: &[Step], asker: usize, seed: u64) -> Result<(), TestCaseError> {
    keep_panics();
    let (root, runtime) = (root(), runtime());
    let book = runtime.block_on(async {
        let book = Book::new();
        let world = World::new(root.path(), 2, seed, book.clone());
        let mut stage = Stage { world, asker, model: Model::default() };
        stage.come_up(asker).await;
        for step in steps {
            stage.step(step).await;
        }
        stage.end().await;
        book
    });
    drop(runtime);
    let mut faults = std::mem::take(&mut book.pages().faults);
    faults.extend(panics());
    if faults.is_empty() { Ok(()) } else { Err(TestCaseError::fail(format!("{}\n{}", book.trace(), faults.join("\n")))) }
}

/// `PROPTEST_CASES` says otherwise.
fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn an_id_stands_for_one_content_and_one_run_whatever_breaks(steps in steps(), asker in 0..2_usize, seed in any::<u64>()) {
        play(&steps, asker, seed)?;
    }
}
