//! A proxy between a client and a server's socket that can fail as networks do.

use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::watch;

/// What it does with what it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Passes it on.
    Passes,
    /// Keeps connections open, and nothing gets through: to both ends the other is silent.
    Swallows,
    /// Ends every connection, and takes no new one.
    Cuts,
}

/// A proxy on a TCP port of its own.
pub struct Proxy {
    pub port: u16,
    mood: Arc<watch::Sender<Mood>>,
}

impl Proxy {
    /// A proxy to a Unix socket.
    pub async fn to(socket: PathBuf) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("listen");
        let port = listener.local_addr().expect("it has an address").port();
        let mood = Arc::new(watch::Sender::new(Mood::Passes));
        let moods = Arc::clone(&mood);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = UnixStream::connect(&socket).await else { continue };
                let (client_read, client_write) = client.into_split();
                let (server_read, server_write) = server.into_split();
                tokio::spawn(pass(client_read, server_write, moods.subscribe()));
                tokio::spawn(pass(server_read, client_write, moods.subscribe()));
            }
        });
        Self { port, mood }
    }

    /// What it does from now on, with the connections that there are too.
    pub fn set(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }
}

async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut mood: watch::Receiver<Mood>) {
    let mut buffer = [0; 8192];
    loop {
        let now = *mood.borrow_and_update();
        match now {
            Mood::Cuts => return,
            Mood::Swallows => {
                // What is swallowed once is gone for good: the connection is of no use any more.
                while *mood.borrow_and_update() != Mood::Cuts {
                    if mood.changed().await.is_err() {
                        return;
                    }
                }
                return;
            }
            Mood::Passes => tokio::select! {
                read = from.read(&mut buffer) => match read {
                    Ok(count @ 1..) if to.write_all(&buffer[..count]).await.is_ok() => {}
                    _ => return,
                },
                changed = mood.changed() => if changed.is_err() {
                    return;
                },
            },
        }
    }
}
