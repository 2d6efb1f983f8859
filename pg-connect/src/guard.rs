//! [`Guard`]: a stream that reads the server's requests for authentication as they pass.
//!
//! tokio-postgres answers whatever a server asks. A server that is none of ours, or somebody on the
//! way to ours, may ask for the password in clear text. The guard sees each request first. If the
//! settings do not allow the request, reading fails before tokio-postgres sees it, so nothing is
//! sent. The guard also remembers whether the server let the client in: an error before that is
//! another one than an error after that, and what is tried next depends on it.
//!
//! ```text
//! server ──bytes──→ Stream ──→ Guard ──→ tokio-postgres
//!                                └── R messages (manual, 54.7 Message Formats) ──→ Rules
//! ```

use crate::gulps::Gulps;
use crate::require_auth::{Method, RequireAuth};
use crate::settings::SslCertMode;
use crate::stream::Stream;
use std::io;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

/// The bytes of a message up to its content: the kind and the length.
const HEAD: usize = 5;
/// The bytes of an authentication request up to and with its code.
const REQUEST: usize = 9;
/// The lengths that an authentication request may have, as libpq has them.
const REQUEST_LENGTHS: RangeInclusive<u32> = 8..=2000;
/// The lengths that any other message may have before the client is let in.
const OTHER_LENGTHS: RangeInclusive<u32> = 4..=30_000;

/// What a server may ask for, and must have asked for when it lets the client in.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) require_auth: RequireAuth,
    /// Whether the password's proof must be bound to the TLS connection.
    pub(crate) must_bind: bool,
    /// Whether the server may offer to bind: the connection is encrypted.
    pub(crate) may_offer_binding: bool,
    /// Whether SCRAM may go on without a binding, if the certificate has none.
    pub(crate) may_skip_binding: bool,
    pub(crate) certificate_mode: SslCertMode,
    /// Whether a certificate of this client was sent.
    pub(crate) certificate: Arc<CertificateUse>,
}

/// Whether a server asked for a certificate of the client, and got one. Set during the handshake of
/// TLS.
#[derive(Debug, Default)]
pub(crate) struct CertificateUse {
    pub(crate) was_requested: AtomicBool,
    pub(crate) was_sent: AtomicBool,
}

/// What the guard saw.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// The last way of authentication that the server asked for.
    pub(crate) method: Option<Method>,
    /// Whether the server let the client in.
    pub(crate) is_let_in: bool,
    /// The reason for which the guard ended the connection.
    pub(crate) refused: Option<Refused>,
}

/// A request that the settings do not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// The server asks for authentication in a way that `require_auth` does not allow.
    #[error("the server asks for {0}, which require_auth does not allow")]
    Method(MethodName),
    /// The server lets the client in without the authentication that `require_auth` wants.
    #[error("the server lets the client in without the authentication that require_auth wants")]
    NoAuthentication,
    /// `channel_binding=require`, and the server asks for something else than SCRAM.
    #[error("the server asks for {0}, and channel_binding=require wants SCRAM over TLS")]
    NotBindable(MethodName),
    /// `channel_binding=require`, and the server did not prove that it knows the password.
    #[error("the server lets the client in without channel binding, which is required")]
    NotBound,
    /// The server's certificate was not checked, and has no hash to which SCRAM could be bound.
    #[error(
        "the server's certificate was not checked, and SCRAM cannot be bound to it: check it \
        (sslmode=verify-full), or set channel_binding=disable"
    )]
    Unbindable,
    /// The server offers channel binding over a connection without TLS, as only a server would to
    /// which the client's TLS ends elsewhere.
    #[error("the server offers channel binding, and the connection is not encrypted")]
    BindingOverPlaintext,
    /// A message before the client is let in is too short or too long to be one.
    #[error("the server sends a message of a length that it cannot have")]
    Length,
    /// `sslcertmode=require`, and the server did not ask for a certificate.
    #[error("the server did not ask for a certificate, and sslcertmode=require wants that")]
    CertificateNotRequested,
    /// `sslcertmode=require`, and there was no certificate to send.
    #[error(
        "the server let the client in without a certificate, and sslcertmode=require wants one"
    )]
    CertificateNotSent,
}

/// A way of authentication, as messages name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MethodName(Method);

impl std::fmt::Display for MethodName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A stream that is watched until the server lets the client in.
#[derive(Debug)]
pub(crate) struct Guard {
    stream: Stream,
    /// The binding of the password's proof to the TLS connection; `None` if there is none.
    binding: Option<Vec<u8>>,
    /// `None` once the server let the client in: what comes then is passed on unread.
    watch: Option<Watch>,
    /// What merges the server's rows, once the client was let in; `None` if nothing does.
    gulps: Option<Gulps>,
}

/// The part of a [`Guard`] that reads messages.
#[derive(Debug)]
struct Watch {
    rules: Rules,
    /// The bytes of the message that is being read; of one that is no request, the first ones.
    message: Vec<u8>,
    /// The bytes up to the next message.
    skip: usize,
    /// Whether the exchange that the server asked for is complete.
    is_complete: bool,
    seen: Arc<Mutex<Seen>>,
}

impl Guard {
    /// Creates a guard that writes what it sees to `seen`.
    pub(crate) fn new(
        stream: Stream,
        binding: Option<Vec<u8>>,
        rules: Rules,
        seen: Arc<Mutex<Seen>>,
    ) -> Self {
        Self {
            stream,
            binding,
            gulps: None,
            watch: Some(Watch {
                rules,
                message: Vec::new(),
                skip: 0,
                is_complete: false,
                seen,
            }),
        }
    }
}

impl Guard {
    /// Makes the stream read in gulps once the client was let in; see [`Gulps`].
    pub(crate) fn in_gulps(mut self) -> Self {
        let pauses = !matches!(self.stream, Stream::Socket(_));
        self.gulps = Some(Gulps::new(pauses));
        self
    }
}

impl Watch {
    /// Reads bytes that passed.
    ///
    /// # Errors
    /// If a request among them is not allowed.
    fn read(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        let mut bytes = bytes;
        while !bytes.is_empty() && !self.is_let_in() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let Some((first, rest)) = bytes.split_first() else {
                break;
            };
            self.message.push(*first);
            bytes = rest;
            self.look()?;
        }
        Ok(())
    }

    /// Looks at the message that is being read, if enough of it is there. tokio-postgres acts on a
    /// message when the last byte is there, so that is early enough.
    fn look(&mut self) -> Result<(), Refused> {
        let Some(length) = four_bytes(&self.message, 1) else {
            return Ok(());
        };
        let is_request = self.message[0] == b'R';
        let allowed = if is_request {
            REQUEST_LENGTHS
        } else {
            OTHER_LENGTHS
        };
        // tokio-postgres would keep two gigabytes of a message that never ends.
        if !allowed.contains(&length) {
            return Err(Refused::Length);
        }
        // The length counts itself, and not the kind.
        let length = length as usize + 1;
        if !is_request {
            self.skip = length - HEAD;
            self.message.clear();
            return Ok(());
        }
        if self.message.len() < length {
            return Ok(());
        }
        let message = std::mem::take(&mut self.message);
        match four_bytes(&message, HEAD) {
            Some(code) => self.request(code, &message[REQUEST..]),
            None => Err(Refused::Length),
        }
    }

    /// Checks a request for authentication, by its code.
    fn request(&mut self, code: u32, content: &[u8]) -> Result<(), Refused> {
        let method = match code {
            0 => return self.let_in(),
            // Parts of SCRAM that is going on. Behind the last of them, the server has proved that
            // it knows the password.
            11 => return Ok(()),
            12 => {
                self.is_complete = true;
                return Ok(());
            }
            3 => Method::Password,
            5 => Method::Md5,
            7 | 8 => Method::Gss,
            9 => Method::Sspi,
            10 => Method::ScramSha256,
            _ => Method::Unknown,
        };
        // A password is the last thing that the client sends.
        if matches!(method, Method::Password | Method::Md5) {
            self.is_complete = true;
        }
        self.lock().method = Some(method);
        if self.rules.must_bind && method != Method::ScramSha256 {
            return Err(Refused::NotBindable(MethodName(method)));
        }
        if !self.rules.require_auth.allows(method) {
            return Err(Refused::Method(MethodName(method)));
        }
        if method == Method::ScramSha256 {
            return self.mechanisms(content);
        }
        Ok(())
    }

    /// Checks the ways of SCRAM that a server offers.
    fn mechanisms(&self, content: &[u8]) -> Result<(), Refused> {
        let offers_binding = content
            .split(|byte| *byte == 0)
            .any(|mechanism| mechanism == b"SCRAM-SHA-256-PLUS");
        if offers_binding && !self.rules.may_offer_binding {
            return Err(Refused::BindingOverPlaintext);
        }
        if !self.rules.may_skip_binding {
            return Err(Refused::Unbindable);
        }
        Ok(())
    }

    /// Checks whether the server may let the client in now.
    fn let_in(&mut self) -> Result<(), Refused> {
        if !self.is_complete && self.rules.must_bind {
            return Err(Refused::NotBound);
        }
        if !self.is_complete && !self.rules.require_auth.allows(Method::None) {
            return Err(Refused::NoAuthentication);
        }
        if self.rules.certificate_mode == SslCertMode::Require {
            let certificate = &self.rules.certificate;
            if !certificate.was_requested.load(Ordering::Relaxed) {
                return Err(Refused::CertificateNotRequested);
            }
            if !certificate.was_sent.load(Ordering::Relaxed) {
                return Err(Refused::CertificateNotSent);
            }
        }
        self.lock().is_let_in = true;
        Ok(())
    }

    fn is_let_in(&self) -> bool {
        self.lock().is_let_in
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        // Nothing panics while the lock is held.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the number in the four bytes at a position; `None` if they are not there yet.
fn four_bytes(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_be_bytes(bytes))
}

impl AsyncRead for Guard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let guard = &mut *self;
        let Some(watch) = &mut guard.watch else {
            let stream = Pin::new(&mut guard.stream);
            return match &mut guard.gulps {
                Some(gulps) => gulps.poll_read(stream, cx, buf),
                None => stream.poll_read(cx, buf),
            };
        };
        let before = buf.filled().len();
        ready!(Pin::new(&mut guard.stream).poll_read(cx, buf))?;
        if let Err(refused) = watch.read(&buf.filled()[before..]) {
            watch.lock().refused = Some(refused);
            // The bytes are taken back: a reader that ignores the error must not see the request.
            buf.set_filled(before);
            return Poll::Ready(Err(io::Error::other(refused)));
        }
        if watch.is_let_in() {
            guard.watch = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guard {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl TlsStream for Guard {
    fn channel_binding(&self) -> ChannelBinding {
        match &self.binding {
            Some(hash) => ChannelBinding::tls_server_end_point(hash.clone()),
            None => ChannelBinding::none(),
        }
    }
}

/// The handshake that tokio-postgres does. TLS is there by then, so it does nothing: tokio-postgres
/// only learns the channel binding in this way.
pub(crate) struct HandshakeDone;

impl TlsConnect<Guard> for HandshakeDone {
    type Stream = Guard;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<Guard>>;

    fn connect(self, stream: Guard) -> Self::Future {
        std::future::ready(Ok(stream))
    }
}

#[cfg(test)]
mod tests;
