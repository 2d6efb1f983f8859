//! Requests for authentication, and bytes in pieces of every size.

use super::*;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;

fn rules(require_auth: &str) -> Rules {
    Rules {
        require_auth: RequireAuth::parse(require_auth).unwrap(),
        must_bind: false,
        may_offer_binding: true,
        may_skip_binding: true,
        certificate_mode: SslCertMode::Allow,
        certificate: Arc::default(),
    }
}

/// Returns a request with this code.
fn request(code: u32, rest: &[u8]) -> Vec<u8> {
    let length = u32::try_from(8 + rest.len()).unwrap();
    [b"R", &length.to_be_bytes()[..], &code.to_be_bytes(), rest].concat()
}

/// Sends bytes through a guard, so many at once. Returns what came through and what was seen.
async fn pass(rules: Rules, bytes: &[u8], piece: usize) -> (Vec<u8>, Seen) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let seen = Arc::<Mutex<Seen>>::default();
    let mut guard = Guard::new(Stream::Socket(ours), None, rules, Arc::clone(&seen));
    let mut passed = Vec::new();
    for piece in bytes.chunks(piece) {
        theirs.write_all(piece).await.unwrap();
        let mut buffer = [0; 100];
        match guard.read(&mut buffer).await {
            Ok(count) => passed.extend_from_slice(&buffer[..count]),
            Err(_) => break,
        }
    }
    let seen = seen.lock().unwrap().clone();
    (passed, seen)
}

#[tokio::test]
async fn a_request_that_is_not_allowed_is_not_seen_by_the_reader() {
    let notice = [b"N", &9_u32.to_be_bytes()[..], b"R\0\0\0\0"].concat();
    let bytes = [notice.clone(), request(3, b"")].concat();
    for piece in 1..=bytes.len() {
        let (passed, seen) = pass(rules("scram-sha-256"), &bytes, piece).await;
        assert_eq!(
            seen.refused,
            Some(Refused::Method(MethodName(Method::Password)))
        );
        // A part of the request may have passed, but never all of it.
        assert!(passed.len() < bytes.len(), "{piece}");
        assert!(!seen.is_let_in);
    }
    let (passed, seen) = pass(rules(""), &bytes, 100).await;
    assert_eq!((passed, seen.refused), (bytes, None));
    assert_eq!(seen.method, Some(Method::Password));
}

#[tokio::test]
async fn a_server_that_asks_for_nothing_is_refused_if_a_password_is_wanted() {
    let ok = request(0, b"");
    let (_, seen) = pass(rules("scram-sha-256"), &ok, 4).await;
    assert_eq!(seen.refused, Some(Refused::NoAuthentication));
    let (_, seen) = pass(rules("!none"), &ok, 100).await;
    assert_eq!(seen.refused, Some(Refused::NoAuthentication));
    let (_, seen) = pass(rules("none"), &ok, 1).await;
    assert!(seen.is_let_in && seen.refused.is_none());
}

#[tokio::test]
async fn scram_counts_once_the_server_has_proved_itself() {
    let asked = request(10, b"SCRAM-SHA-256\0\0");
    let proved = request(12, b"v=x");
    let ok = request(0, b"");
    let whole = [asked.clone(), request(11, b"r=x"), proved, ok.clone()].concat();
    let (_, seen) = pass(rules("scram-sha-256"), &whole, 7).await;
    assert!(seen.is_let_in);
    // Without its proof, the server is none that knows the password.
    let (_, seen) = pass(rules("scram-sha-256"), &[asked, ok].concat(), 7).await;
    assert_eq!(seen.refused, Some(Refused::NoAuthentication));
}

#[tokio::test]
async fn channel_binding_that_is_required_takes_nothing_but_scram() {
    let mut binding = rules("");
    binding.must_bind = true;
    let (_, seen) = pass(binding.clone(), &request(5, b"salt"), 100).await;
    assert_eq!(
        seen.refused,
        Some(Refused::NotBindable(MethodName(Method::Md5)))
    );
    let (_, seen) = pass(binding, &request(0, b""), 100).await;
    assert_eq!(seen.refused, Some(Refused::NotBound));
}

#[tokio::test]
async fn a_certificate_that_is_required_must_have_been_asked_for_and_sent() {
    let mut certificate = rules("");
    certificate.certificate_mode = SslCertMode::Require;
    let ok = request(0, b"");
    let (_, seen) = pass(certificate.clone(), &ok, 100).await;
    assert_eq!(seen.refused, Some(Refused::CertificateNotRequested));
    let used = &certificate.certificate;
    used.was_requested.store(true, Ordering::Relaxed);
    let (_, seen) = pass(certificate.clone(), &ok, 100).await;
    assert_eq!(seen.refused, Some(Refused::CertificateNotSent));
    let used = &certificate.certificate;
    used.was_sent.store(true, Ordering::Relaxed);
    let (_, seen) = pass(certificate, &ok, 100).await;
    assert!(seen.is_let_in);
}

// Bytes behind the last request may look like one.
#[tokio::test]
async fn what_comes_after_the_client_was_let_in_is_not_read() {
    let bytes = [request(0, b""), request(3, b"")].concat();
    for piece in [1, 9, 100] {
        let (passed, seen) = pass(rules("none"), &bytes, piece).await;
        assert_eq!((passed.len(), seen.refused), (bytes.len(), None));
    }
}

// tokio-postgres would keep up to two gigabytes of a message before it looks at it.
#[tokio::test]
async fn a_length_that_no_message_has_ends_the_connection() {
    for (kind, length) in [
        (b'R', 0_u32),
        (b'R', 7),
        (b'R', 2001),
        (b'R', u32::MAX),
        (b'N', 3),
        (b'E', 30_001),
        (b'N', u32::MAX),
    ] {
        let bytes = [&[kind][..], &length.to_be_bytes(), &[0; 40]].concat();
        let (_, seen) = pass(rules("none"), &bytes, 3).await;
        assert_eq!(seen.refused, Some(Refused::Length), "{kind} {length}");
    }
}

// Somebody on the way shows a certificate to which nothing can be bound, and passes the rest on to
// the server: that would let a client in which says that it cannot bind.
#[tokio::test]
async fn scram_that_cannot_be_bound_needs_a_certificate_that_was_checked() {
    let mut unbindable = rules("");
    unbindable.may_skip_binding = false;
    let asked = request(10, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0");
    for piece in [1, 9, 100] {
        let (passed, seen) = pass(unbindable.clone(), &asked, piece).await;
        assert_eq!(seen.refused, Some(Refused::Unbindable));
        assert!(passed.len() < asked.len());
    }
    let (_, seen) = pass(rules(""), &asked, 100).await;
    assert_eq!(seen.refused, None);
    // A server that can bind has TLS, so the TLS of this connection ended on the way.
    let mut plain = rules("");
    plain.may_offer_binding = false;
    let (_, seen) = pass(plain.clone(), &asked, 100).await;
    assert_eq!(seen.refused, Some(Refused::BindingOverPlaintext));
    let (_, seen) = pass(plain, &request(10, b"SCRAM-SHA-256\0\0"), 100).await;
    assert_eq!(seen.refused, None);
}
