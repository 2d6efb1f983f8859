//! A proxy between a client and a server's socket that can fail as networks do.

use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::watch;

/// What it does with what it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Passes it on.
    Passes,
    /// Keeps connections open, and nothing gets through: to both ends the other is silent. What was
    /// sent comes late, when the mood is another one.
    Stalls,
    /// Passes it on in drops, some 60 kB a second.
    Drips,
    /// Answers each new connection as a server does that is starting (SQLSTATE 57P03).
    Starts,
    /// Ends a connection once it has passed on so many bytes of the server's.
    CutsAfter(usize),
}

/// What a server says that is starting (manual, 55.7 Message Formats, ErrorResponse).
fn starting() -> Vec<u8> {
    let fields = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0";
    let length = u32::try_from(fields.len() + 4).expect("it is short");
    [b"E", &length.to_be_bytes()[..], fields].concat()
}

#[derive(Debug, Clone, Copy)]
struct Orders {
    mood: Mood,
    /// How often all connections were cut.
    cuts: u64,
}

/// A proxy on a TCP port of its own.
pub struct Proxy {
    pub port: u16,
    orders: watch::Sender<Orders>,
    /// Where new connections lead.
    target: watch::Sender<PathBuf>,
    /// How many connections it has taken.
    taken: watch::Receiver<u64>,
}

impl Proxy {
    /// A proxy to a Unix socket.
    pub async fn to(socket: PathBuf) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("listen");
        let port = listener.local_addr().expect("it has an address").port();
        let orders = watch::Sender::new(Orders {
            mood: Mood::Passes,
            cuts: 0,
        });
        let (count, taken) = watch::channel(0);
        let heard = orders.subscribe();
        let target = watch::Sender::new(socket);
        let leads_to = target.subscribe();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                count.send_modify(|count| *count += 1);
                if heard.borrow().mood == Mood::Starts {
                    // What it asks for is read first: what is not read would reset the connection.
                    let _ = client.read(&mut [0; 1024]).await;
                    let _ = client.write_all(&starting()).await;
                    continue;
                }
                let socket = leads_to.borrow().clone();
                let Ok(server) = UnixStream::connect(&socket).await else {
                    continue;
                };
                let (client_read, client_write) = client.into_split();
                let (server_read, server_write) = server.into_split();
                let cuts = heard.borrow().cuts;
                tokio::spawn(pass(client_read, server_write, heard.clone(), cuts, false));
                tokio::spawn(pass(server_read, client_write, heard.clone(), cuts, true));
            }
        });
        Self {
            port,
            orders,
            target,
            taken,
        }
    }

    /// What it does from now on, with the connections that there are too.
    pub fn set(&self, mood: Mood) {
        self.orders.send_modify(|orders| orders.mood = mood);
    }

    /// Leads to another socket from now on, and ends all connections that there are.
    pub fn lead_to(&self, socket: PathBuf) {
        self.target.send_replace(socket);
        self.cut();
    }

    /// Ends all connections that there are.
    pub fn cut(&self) {
        self.orders.send_modify(|orders| orders.cuts += 1);
    }

    /// Waits until somebody connects.
    pub async fn is_dialled(&self) {
        let mut taken = self.taken.clone();
        taken.mark_unchanged();
        taken.changed().await.expect("the proxy goes on");
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut orders: watch::Receiver<Orders>,
    cuts: u64,
    is_of_server: bool,
) {
    let mut passed = 0;
    let mut buffer = [0; 8192];
    loop {
        let now = *orders.borrow_and_update();
        if now.cuts != cuts {
            return;
        }
        let room = match now.mood {
            Mood::CutsAfter(most) if is_of_server && passed >= most => return,
            Mood::Passes | Mood::Starts | Mood::CutsAfter(_) => buffer.len(),
            Mood::Drips => 64,
            Mood::Stalls => 0,
        };
        tokio::select! {
            read = from.read(&mut buffer[..room]), if room > 0 => match read {
                Ok(count @ 1..) if to.write_all(&buffer[..count]).await.is_ok() => passed += count,
                _ => return,
            },
            changed = orders.changed() => if changed.is_err() {
                return;
            },
        }
        if now.mood == Mood::Drips {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
