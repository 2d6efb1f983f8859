//! [`FalseServers`]: ports behind which there is no PostgreSQL server, each one wrong in its way.

use socket2::{Domain, Socket, Type};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The codes of the requests that come before the name of the user.
const TLS_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;

/// How long a false server waits for a client.
const PATIENCE: Duration = Duration::from_secs(20);

/// The ports of servers that are none.
pub struct FalseServers {
    /// Says that it is starting up.
    pub starting: u16,
    /// Closes the connection at once.
    pub hangup: u16,
    /// Takes the connection, and says nothing.
    pub silent: u16,
    /// Does not even take the connection: its queue is full.
    pub deaf: u16,
    /// Asks for the password in clear text, and remembers what comes.
    pub clear: u16,
    /// Answer the request for TLS with an error, with a letter that is no answer, by closing the
    /// connection, or with a yes and bytes behind it that are not encrypted.
    pub answers_e: u16,
    pub answers_x: u16,
    pub ends: u16,
    pub injects: u16,
    /// What came where a password was asked for.
    pub heard: Arc<Mutex<Vec<u8>>>,
    /// The connections that fill the queue.
    _queue: Vec<Socket>,
}

impl FalseServers {
    pub fn start() -> Self {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let to = Arc::clone(&heard);
        let queue = full_queue();
        let deaf = queue[0].local_addr().unwrap().as_socket().unwrap().port();
        Self {
            starting: serve(|mut client| {
                read_start(&mut client)?;
                client.write_all(&error("57P03", "the database system is starting up"))
            }),
            hangup: serve(|_| Ok(())),
            silent: serve(|mut client| {
                let mut byte = [0];
                while client.read(&mut byte)? > 0 {}
                Ok(())
            }),
            deaf,
            clear: serve(move |mut client| {
                read_start(&mut client)?;
                client.write_all(&[b'R', 0, 0, 0, 8, 0, 0, 0, 3])?;
                let mut bytes = [0; 200];
                let count = client.read(&mut bytes)?;
                to.lock().unwrap().extend_from_slice(&bytes[..count]);
                Ok(())
            }),
            answers_e: serve(|mut client| {
                client.read_exact(&mut [0; 8])?;
                client.write_all(&error("XX000", "could not fork"))
            }),
            answers_x: serve(|mut client| {
                client.read_exact(&mut [0; 8])?;
                client.write_all(b"X")
            }),
            ends: serve(|mut client| client.read_exact(&mut [0; 8])),
            injects: serve(|mut client| {
                client.read_exact(&mut [0; 8])?;
                let ok = [b'R', 0, 0, 0, 8, 0, 0, 0, 0];
                client.write_all(&[b"S", ok.as_slice(), &ok, &ok].concat())?;
                // The client ends the connection.
                let mut bytes = [0; 1000];
                while client.read(&mut bytes)? > 0 {}
                Ok(())
            }),
            heard,
            _queue: queue,
        }
    }
}

/// Serves a port by a thread for each client, until this process ends.
fn serve(answer: impl Fn(TcpStream) -> std::io::Result<()> + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let Ok(client) = client else { continue };
            let answer = Arc::clone(&answer);
            std::thread::spawn(move || {
                client.set_read_timeout(Some(PATIENCE)).unwrap();
                // A client that goes away is what these servers are for.
                let _ = answer(client);
            });
        }
    });
    port
}

/// Reads what a client sends up to its name, and answers `N` to requests for encryption.
fn read_start(client: &mut TcpStream) -> std::io::Result<()> {
    loop {
        let mut head = [0; 8];
        client.read_exact(&mut head)?;
        let length = u32::from_be_bytes(head[..4].try_into().unwrap());
        let code = u32::from_be_bytes(head[4..].try_into().unwrap());
        if matches!(code, TLS_REQUEST | GSS_REQUEST) {
            client.write_all(b"N")?;
            continue;
        }
        return client.read_exact(&mut vec![0; length as usize - 8]);
    }
}

/// Returns the message of an error.
fn error(code: &str, text: &str) -> Vec<u8> {
    let body = format!("SFATAL\0VFATAL\0C{code}\0M{text}\0\0");
    let length = u32::try_from(body.len() + 4).unwrap();
    [b"E", length.to_be_bytes().as_slice(), body.as_bytes()].concat()
}

/// Returns a socket that listens, the first one, and those that fill its queue.
fn full_queue() -> Vec<Socket> {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut sockets = vec![listener];
    for _ in 0..3 {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        // The ones beyond the queue's length never connect.
        let _ = socket.connect(&address);
        sockets.push(socket);
    }
    sockets
}
