//! What happens, told to whoever subscribed to it. Nobody is waited for: a subscriber that does not keep up is told how much it
//! missed. It never keeps what nobody wants.

use std::sync::Arc;

use tokio::sync::broadcast;
use ws_daemon_protocol::command::Topic;

/// Lines that wait for the slowest subscriber; when full, it misses the oldest, and is told how many.
const WAITING_LINES: usize = 4096;

/// Where news are told. Clones are the same.
#[derive(Debug, Clone)]
pub struct News(broadcast::Sender<Item>);

/// Where news are heard.
#[derive(Debug)]
pub struct Subscription {
    items: broadcast::Receiver<Item>,
    topics: Vec<Topic>,
}

#[derive(Debug, Clone)]
struct Item {
    topic: Topic,
    line: Arc<str>,
}

impl Default for News {
    fn default() -> Self {
        Self(broadcast::channel(WAITING_LINES).0)
    }
}

impl News {
    /// Tells a line, which is made only if somebody listens.
    pub fn tell(&self, topic: Topic, line: impl FnOnce() -> String) {
        if self.0.receiver_count() > 0 {
            // The last one may just have left.
            drop(self.0.send(Item { topic, line: line().into() }));
        }
    }

    /// Hears what is told of `topics` from now on.
    #[must_use]
    pub fn subscribe(&self, topics: Vec<Topic>) -> Subscription {
        Subscription { items: self.0.subscribe(), topics }
    }
}

impl Subscription {
    /// The next line; `None` when there will be no more.
    pub async fn next(&mut self) -> Option<Arc<str>> {
        loop {
            match self.items.recv().await {
                Ok(item) if self.topics.contains(&item.topic) => return Some(item.line),
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    return Some(format!("{{\"event\":\"gap\",\"missed\":{missed}}}").into());
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_subscriber_hears_its_topics_and_how_much_it_missed() {
        let news = News::default();
        news.tell(Topic::Runs, || panic!("nobody listens: no line is made"));
        let mut peers = news.subscribe(vec![Topic::Peers]);
        news.tell(Topic::Runs, || "{1}".into());
        news.tell(Topic::Peers, || "{2}".into());
        assert_eq!(peers.next().await.as_deref(), Some("{2}"));
        for _ in 0..WAITING_LINES + 5 {
            news.tell(Topic::Peers, || "{3}".into());
        }
        assert_eq!(peers.next().await.as_deref(), Some("{\"event\":\"gap\",\"missed\":5}"));
        drop(news);
        let mut left = 0;
        while peers.next().await.is_some() {
            left += 1;
        }
        assert_eq!(left, WAITING_LINES);
    }
}
