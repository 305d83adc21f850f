//! Stands between the demo's client and server, passes every frame on as it is, and keeps a copy of its text. Only for the demo:
//! it believes both sides.

use std::sync::mpsc;

use anyhow::Context;
use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{accept_async, client_async};

/// Frames that are kept until they are shown; more are passed on without a copy.
const KEPT_FRAMES: usize = 1024;

/// A frame that went by.
#[derive(Debug)]
pub struct Frame {
    /// The side that sent it.
    pub from: &'static str,
    /// The side that got it.
    pub to: &'static str,
    /// Its text.
    pub text: String,
}

/// A tap that is listening.
#[derive(Debug)]
pub struct Tap {
    listener: TcpListener,
    server_port: u16,
}

impl Tap {
    /// A tap before the server on `server_port`.
    pub async fn bind(server_port: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("no port for the demo's tap")?;
        Ok(Self { listener, server_port })
    }

    /// Where the client is to dial.
    pub fn port(&self) -> anyhow::Result<u16> {
        Ok(self.listener.local_addr()?.port())
    }

    /// Passes on the frames of one client until either side ends the link. Copies go to `copies`.
    pub async fn pass_on(self, copies: mpsc::SyncSender<Frame>) -> anyhow::Result<()> {
        let (client, _) = self.listener.accept().await?;
        let server = TcpStream::connect(("127.0.0.1", self.server_port)).await?;
        let mut client = accept_async(client).await?;
        let (mut server, _) = client_async(format!("ws://127.0.0.1:{}/", self.server_port), server).await?;
        loop {
            tokio::select! {
                Some(Ok(message)) = client.next() => {
                    keep(&copies, "client", "server", &message);
                    server.send(message).await?;
                }
                Some(Ok(message)) = server.next() => {
                    keep(&copies, "server", "client", &message);
                    client.send(message).await?;
                }
                else => return Ok(()),
            }
        }
    }

    /// A channel for the copies, bounded.
    pub fn copies() -> (mpsc::SyncSender<Frame>, mpsc::Receiver<Frame>) {
        mpsc::sync_channel(KEPT_FRAMES)
    }
}

fn keep(copies: &mpsc::SyncSender<Frame>, from: &'static str, to: &'static str, message: &Message) {
    if let Message::Text(text) = message {
        // Full, or nobody looks any more: the frame still goes on its way.
        drop(copies.try_send(Frame { from, to, text: text.to_string() }));
    }
}
