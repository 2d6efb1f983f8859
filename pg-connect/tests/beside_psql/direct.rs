//! TLS without a request before it (`sslnegotiation=direct`), which servers speak from version 17
//! on. Here a proxy speaks TLS in front of the server without TLS, whatever the server's version
//! is.

use crate::world;
use pg_connect::{ConnectError, Connected, Environment, SessionOptions, Target};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Starts a proxy that speaks TLS from the first byte on, and names these protocols. Returns its
/// port.
async fn proxy(protocols: &[&[u8]]) -> u16 {
    let certificates = &world().certificates;
    let chain = certificates.read("good.crt");
    let chain = CertificateDer::pem_slice_iter(chain.as_bytes());
    let key = certificates.read("good.key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            chain.map(Result::unwrap).collect(),
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client may refuse the certificate.
                let Ok(mut client) = acceptor.accept(client).await else {
                    return;
                };
                let to = ("127.0.0.1", world().plain.port);
                let mut server = TcpStream::connect(to).await.unwrap();
                // It ends with an error if the client does not close TLS, which is no matter here.
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    port
}

async fn connect(port: u16, more: &str) -> Result<Connected, ConnectError> {
    let certs = world().folder.path().join("certs");
    let conninfo = format!(
        "host=localhost hostaddr=127.0.0.1 port={port} user=trustu dbname=app \
        sslnegotiation=direct {}",
        more.replace("{certs}", &certs.display().to_string())
    );
    let target = Target::new(&conninfo, Environment::default()).unwrap();
    target.connect(&SessionOptions::default()).await
}

#[tokio::test]
async fn direct_tls_needs_a_server_that_names_the_protocol() {
    let full = "sslmode=verify-full sslrootcert={certs}/ca.crt";
    let port = proxy(&[b"postgresql"]).await;
    connect(port, full).await.unwrap();
    connect(port, "sslmode=require").await.unwrap();
    let refused = connect(port, "sslmode=verify-ca sslrootcert={certs}/other.crt").await;
    let refused = refused.unwrap_err().to_string();
    assert!(
        refused.contains("is of no authority that is trusted"),
        "{refused}"
    );
    // A proxy of another protocol could pass on what is not meant for it.
    for protocols in [&[][..], &[b"postgresql".as_slice(), b"h2"][1..]] {
        let port = proxy(protocols).await;
        assert!(connect(port, full).await.is_err(), "{protocols:?}");
    }
    let not_named = connect(proxy(&[]).await, full).await.unwrap_err();
    let said = not_named.to_string();
    assert!(
        said.contains("does not speak PostgreSQL over direct TLS"),
        "{said}"
    );
}

#[tokio::test]
async fn a_server_that_waits_for_a_request_is_told_from_one_that_is_silent() {
    let port = world().tls.port;
    let error = connect(port, "sslmode=require").await.unwrap_err();
    let hint = error.hint().unwrap_or_default();
    assert!(hint.contains("older than version 17"), "{error}: {hint}");
}
