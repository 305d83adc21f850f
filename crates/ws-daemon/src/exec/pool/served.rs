//! Connections that serve: who is asked for a name that no script has. It knows a connection by what was given to it, where lines go and
//! by what it is closed, and is told what comes back; it never reads or writes one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use ws_daemon_protocol::worker::Asked;

use super::member::{Heard, Keeps, Member, Sink};
use super::{Call, Not};
use crate::config::Glob;
use crate::exec::line::{Held, Line, Places};

/// All that serve, in groups of the same names, in order of arrival.
#[derive(Debug, Default)]
pub struct Groups(Mutex<Vec<Arc<Group>>>);

/// Connections that serve the same names.
#[derive(Debug)]
pub struct Group {
    names: Vec<Glob>,
    /// As many places as they may hold requests.
    line: Arc<Line>,
    connections: Mutex<Vec<Arc<Serving>>>,
    /// There may be room where there was none.
    changed: Notify,
}

/// A connection in a group.
#[derive(Debug)]
pub struct Serving {
    member: Arc<Member>,
    ready: usize,
    close: CancellationToken,
}

/// What is given of a connection.
pub struct Connection {
    /// Takes lines, whole with their newlines.
    pub sink: Box<Sink>,
    /// Closes it.
    pub close: CancellationToken,
}

/// A connection's place among those that serve; given up when dropped.
#[derive(Debug)]
pub struct Served {
    groups: Arc<Groups>,
    member: Arc<Member>,
    close: CancellationToken,
    /// `None`: it serves no more.
    place: Mutex<Option<(Arc<Group>, Arc<Serving>)>>,
}

/// Names that are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedNames {
    /// The names, as globs.
    pub names: Vec<Glob>,
    /// By so many connections.
    pub connections: usize,
    /// That hold so many requests at most.
    pub ready: usize,
}

/// Who is to be asked.
pub enum Picked {
    /// One of these, and the place for it.
    Group(Arc<Group>, Held),
    /// They have no room: this is the line before them.
    Line(Arc<Line>),
}

impl Groups {
    fn all(&self) -> MutexGuard<'_, Vec<Arc<Group>>> {
        // Every section leaves the list whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a name is served. One that is no plain path is not: it would go round a contract.
    pub fn serve(&self, name: &str) -> bool {
        let is_plain = || name.split('/').all(|part| !matches!(part, "" | "." | ".."));
        self.all().iter().any(|group| group.has(name)) && is_plain()
    }

    /// Who is to be asked for a name: the first group that has room, else the first. The place for it comes from those in `had`, or is a
    /// free one.
    pub fn pick(&self, name: &str, had: &mut Places) -> Option<Picked> {
        let all = self.all();
        let groups = || all.iter().filter(|group| group.has(name));
        let mut waited = groups().filter(|group| had.has(&group.line));
        let picked = waited.next().or_else(|| groups().find(|group| group.line.has_room())).or_else(|| groups().next())?;
        Some(match had.take(&picked.line) {
            Some(held) => Picked::Group(Arc::clone(picked), held),
            None => Picked::Line(Arc::clone(&picked.line)),
        })
    }

    /// What is served.
    pub fn served(&self) -> Vec<ServedNames> {
        let all = self.all();
        let served = all.iter().map(|group| {
            let connections = group.connections();
            let ready = connections.iter().map(|serving| serving.ready).sum();
            ServedNames { names: group.names.clone(), connections: connections.len(), ready }
        });
        served.collect()
    }

    /// How many connections serve.
    pub fn count(&self) -> usize {
        self.all().iter().map(|group| group.connections().len()).sum()
    }

    fn enter(&self, names: &[Glob], serving: &Arc<Serving>) -> Arc<Group> {
        let group = {
            let mut all = self.all();
            let group = all.iter().find(|group| group.names == names).cloned().unwrap_or_else(|| {
                let (line, connections) = (Arc::new(Line::new(0)), Mutex::default());
                let group = Arc::new(Group { names: names.to_vec(), line, connections, changed: Notify::new() });
                all.push(Arc::clone(&group));
                group
            });
            group.connections().push(Arc::clone(serving));
            group
        };
        group.resize();
        group
    }

    fn leave(&self, group: &Arc<Group>, serving: &Arc<Serving>) {
        {
            let mut all = self.all();
            let mut connections = group.connections();
            connections.retain(|other| !Arc::ptr_eq(other, serving));
            if connections.is_empty() {
                all.retain(|other| !Arc::ptr_eq(other, group));
            }
        }
        group.resize();
    }
}

impl Group {
    fn has(&self, name: &str) -> bool {
        self.names.iter().any(|glob| glob.matches(name))
    }

    fn connections(&self) -> MutexGuard<'_, Vec<Arc<Serving>>> {
        // Every section leaves the list whole.
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The line is as wide as there is room. When nobody is left, all that wait are let through, to look again.
    fn resize(&self) {
        let room = {
            let connections = self.connections();
            if connections.is_empty() { usize::MAX } else { connections.iter().map(|serving| serving.ready).sum() }
        };
        self.line.set(room);
        self.changed.notify_waiters();
    }

    /// Asks one of them, as soon as one has room.
    pub async fn ask(&self, asked: &Asked<'_>, keeps: &mut Keeps) -> Result<Call, Not> {
        loop {
            // Made before the look: what changes from here on ends it.
            let mut changed = std::pin::pin!(self.changed.notified());
            let mut call = self.ask_at_once(asked, keeps)?;
            if call.is_none() {
                changed.as_mut().enable();
                call = self.ask_at_once(asked, keeps)?;
            }
            match call {
                Some(call) => return Ok(call),
                None => changed.await,
            }
        }
    }

    /// Asks the one that has the least to do, if one has room.
    pub fn ask_at_once(&self, asked: &Asked<'_>, keeps: &mut Keeps) -> Result<Option<Call>, Not> {
        let connections = self.connections();
        if connections.is_empty() {
            return Err(Not::Again);
        }
        let ask = |serving: &Arc<Serving>| {
            let told = serving.member.ask(asked, keeps)?;
            Some(Call::new(Arc::clone(&serving.member), asked.run, told, Some(Arc::clone(serving))))
        };
        let has_room = |serving: &&Arc<Serving>| serving.member.held() < serving.ready;
        let least = connections.iter().filter(has_room).min_by_key(|serving| serving.member.held());
        // One that does not read has room of one kind and not of the other.
        Ok(least.into_iter().chain(connections.iter().filter(has_room)).find_map(ask))
    }
}

impl Serving {
    /// Closes the connection: it does not answer.
    pub fn close(&self) {
        self.close.cancel();
    }
}

impl Served {
    /// A connection that serves nothing yet.
    pub(in crate::exec) fn new(groups: Arc<Groups>, connection: Connection) -> Self {
        let Connection { sink, close } = connection;
        Self { groups, member: Arc::new(Member::connection(sink)), close, place: Mutex::default() }
    }

    /// From here on it serves these names, and no others.
    pub fn serve(&self, names: &[Glob], ready: usize) {
        let serving = Arc::new(Serving { member: Arc::clone(&self.member), ready, close: self.close.clone() });
        let group = self.groups.enter(names, &serving);
        self.leave_for(Some((group, serving)));
    }

    /// It is asked for nothing more; what it holds it may answer.
    pub fn retire(&self) {
        self.leave_for(None);
    }

    /// It can answer nothing more: what it holds is settled.
    pub fn end(&self) {
        self.retire();
        self.member.settle(u64::MAX, &"the connection that served it ended while it had the request".into(), None);
    }

    /// Whether it serves, or has to answer something.
    pub fn is_serving(&self) -> bool {
        self.member.held() > 0 || self.place().is_some()
    }

    /// What it serves, and how much of it at once.
    pub fn serves(&self) -> Option<(Vec<Glob>, usize)> {
        self.place().as_ref().map(|(group, serving)| (group.names.clone(), serving.ready))
    }

    /// How many requests it holds.
    pub fn held(&self) -> usize {
        self.member.held()
    }

    /// Takes a line that it said.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn hear(&self, line: &str) -> Result<Heard, String> {
        let heard = self.member.hear(line)?;
        if matches!(heard, Heard::Taken(_)) {
            self.has_room();
        }
        Ok(heard)
    }

    /// It may take lines again.
    pub fn has_room(&self) {
        let group = self.place().as_ref().map(|(group, _)| Arc::clone(group));
        if let Some(group) = group {
            group.changed.notify_waiters();
        }
    }

    fn place(&self) -> MutexGuard<'_, Option<(Arc<Group>, Arc<Serving>)>> {
        // Every section leaves it whole.
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave_for(&self, other: Option<(Arc<Group>, Arc<Serving>)>) {
        let old = std::mem::replace(&mut *self.place(), other);
        if let Some((group, serving)) = old {
            self.groups.leave(&group, &serving);
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.end();
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}
