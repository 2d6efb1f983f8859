//! [`Proxy`]: a TCP proxy before a server's socket that fails on request, in the ways that networks
//! fail.
//!
//! ```text
//! client ──TCP──→ Proxy ──Unix socket──→ server
//!                   ↑ set(Mood), cut(), lead_to(another socket)
//! ```

use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;

/// The way in which a proxy treats the bytes of its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Passes all bytes on.
    Passes,
    /// Keeps connections open and passes nothing on, so each end finds the other one silent. The
    /// bytes that were sent meanwhile arrive late, once the mood changes.
    Stalls,
    /// Passes bytes on slowly, about 60 kB a second.
    Drips,
    /// Answers each new connection as a starting server does (SQLSTATE 57P03).
    Starts,
    /// Ends a connection once this number of the server's bytes was passed on.
    CutsAfter(usize),
}

/// Returns the message of a server that is starting (manual, 55.7 Message Formats, ErrorResponse).
fn starting() -> Vec<u8> {
    let fields = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0";
    let length = u32::try_from(fields.len() + 4).expect("it is short");
    [b"E", &length.to_be_bytes()[..], fields].concat()
}

/// Answers a client as a server that is starting does: without TLS, and with an error.
async fn answer_as_starting(mut client: TcpStream) -> std::io::Result<()> {
    /// The request for TLS, which comes before the name of the role (manual, 55.2.10).
    const TLS_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
    // Read the request before answering. The kernel resets a connection that is closed with unread
    // bytes, and the client would never see the answer.
    let mut request = [0; 1024];
    let mut count = client.read(&mut request).await?;
    if request[..count] == TLS_REQUEST {
        client.write_all(b"N").await?;
        count = client.read(&mut request).await?;
    }
    if count > 0 {
        client.write_all(&starting()).await?;
    }
    Ok(())
}

/// The state that every connection of a proxy watches.
#[derive(Debug, Clone, Copy)]
struct Orders {
    mood: Mood,
    /// The number of times that all connections were cut. A connection ends when the number is
    /// another one than at its start.
    cuts: u64,
}

/// A proxy on a free TCP port of the loopback interface.
pub struct Proxy {
    pub port: u16,
    orders: watch::Sender<Orders>,
    /// The socket that new connections lead to.
    target: watch::Sender<PathBuf>,
    /// The number of connections that were accepted.
    taken: watch::Receiver<u64>,
}

impl Proxy {
    /// Starts a proxy that leads to a Unix socket.
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
            while let Ok((client, _)) = listener.accept().await {
                count.send_modify(|count| *count += 1);
                if heard.borrow().mood == Mood::Starts {
                    // A client that has gone away is no matter.
                    let _ = answer_as_starting(client).await;
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

    /// Sets the mood for new and for existing connections.
    pub fn set(&self, mood: Mood) {
        self.orders.send_modify(|orders| orders.mood = mood);
    }

    /// Leads new connections to another socket, and ends the existing ones.
    pub fn lead_to(&self, socket: PathBuf) {
        self.target.send_replace(socket);
        self.cut();
    }

    /// Ends all existing connections.
    pub fn cut(&self) {
        self.orders.send_modify(|orders| orders.cuts += 1);
    }

    /// Waits until a client connects after this call.
    pub async fn is_dialled(&self) {
        let mut taken = self.taken.clone();
        taken.mark_unchanged();
        taken.changed().await.expect("the proxy goes on");
    }
}

/// Passes bytes on in one direction, as the current mood says, until either end closes or the
/// connections are cut.
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
        // A mood without room must not read at all: bytes that wait in the kernel arrive late, and
        // the sender's buffer fills up, as behind a network that is silent.
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
