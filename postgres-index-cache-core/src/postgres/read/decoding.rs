//! [`Decoding`]: the thread that makes rows of the stream of a COPY, while the driver stores those
//! before.
//!
//! ```text
//! Read::copy ─ pieces ─→ thread: AheadDecoder ─ rows ─→ CacheWriter
//!                                └ ReadMessage::Decoded ─→ Driver
//! ```
//!
//! The thread is none of the runtime's: a runtime with one worker decodes beside its tasks too, no
//! task waits for the decoder, and a runtime that is shut down does not wait for the thread.

use super::request::{ReadMessage, ReadRequest};
use crate::postgres::apply::writer::AheadDecoder;
use crate::postgres::error::ReadError;
use bytes::Bytes;
use std::io;
use std::thread;
use tokio::sync::{mpsc, oneshot};

/// The batches of pieces that may wait for the thread.
const BATCHES: usize = 1;

/// The thread that decodes the rows of one COPY.
pub(super) struct Decoding {
    pieces_tx: mpsc::Sender<Vec<Bytes>>,
    /// The outcome, once the thread has ended.
    decoded: oneshot::Receiver<Result<(), ReadError>>,
}

impl Decoding {
    /// Starts the thread for the read `asked`.
    ///
    /// # Errors
    /// If the system has no thread left.
    pub(super) fn start(
        decoder: Box<dyn AheadDecoder>,
        asked: ReadRequest,
        rows_tx: mpsc::Sender<ReadMessage>,
    ) -> io::Result<Self> {
        let (pieces_tx, pieces) = mpsc::channel(BATCHES);
        let (done, decoded) = oneshot::channel();
        thread::Builder::new()
            .name("pgic-decode".to_string())
            .spawn(move || {
                // A read that was given up waits for no outcome.
                let _ = done.send(decode(decoder, pieces, asked, &rows_tx));
            })?;
        Ok(Self { pieces_tx, decoded })
    }

    /// Hands pieces of the stream to the thread. Returns false if the thread has ended, which it
    /// does at an error.
    pub(super) async fn send(&self, pieces: Vec<Bytes>) -> bool {
        self.pieces_tx.send(pieces).await.is_ok()
    }

    /// Waits until the driver is told of all rows.
    ///
    /// # Errors
    /// If a row does not have the table's shape, or the stream is not one of COPY.
    pub(super) async fn finish(self) -> Result<(), ReadError> {
        drop(self.pieces_tx);
        self.decoded
            .await
            .unwrap_or_else(|_| Err(ReadError::Thread("it has panicked".to_string())))
    }
}

/// Decodes what comes until the stream ends, and tells the driver of each batch.
fn decode(
    mut decoder: Box<dyn AheadDecoder>,
    mut pieces: mpsc::Receiver<Vec<Bytes>>,
    asked: ReadRequest,
    rows_tx: &mpsc::Sender<ReadMessage>,
) -> Result<(), ReadError> {
    while let Some(batch) = pieces.blocking_recv() {
        let bytes = batch.iter().map(Bytes::len).sum();
        decoder.decode(&batch)?;
        // The channel is bounded: the thread waits while the driver waits for a cache.
        if rows_tx
            .blocking_send(ReadMessage::Decoded { asked, bytes })
            .is_err()
        {
            // The driver is gone.
            return Ok(());
        }
    }
    decoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::read::copy::CopyError;
    use crate::postgres::read::request::ReadKind;
    use crate::sync::TableId;

    /// Refuses the first batch, panics at the first batch, or finds no end.
    struct Failing {
        panics: bool,
        refuses: bool,
    }

    impl AheadDecoder for Failing {
        fn decode(&mut self, _: &[Bytes]) -> Result<(), ReadError> {
            assert!(!self.panics, "meant to panic");
            if self.refuses {
                return Err(CopyError::Signature.into());
            }
            Ok(())
        }

        fn finish(&self) -> Result<(), ReadError> {
            Err(CopyError::Cut.into())
        }

        fn another(&self) -> Box<dyn AheadDecoder> {
            unreachable!("there is one stream")
        }
    }

    /// Decodes batches until the thread takes none any more, at most ten. Returns the error, and
    /// how many batches the driver was told of.
    async fn failure_of(decoder: Failing) -> (String, usize) {
        let asked = ReadRequest {
            epoch: 1,
            table: TableId(0),
            work: 1,
            kind: ReadKind::All,
        };
        let (rows_tx, mut rows) = mpsc::channel(10);
        let decoding = Decoding::start(Box::new(decoder), asked, rows_tx).unwrap();
        for _ in 0..10 {
            if !decoding.send(vec![Bytes::from_static(b"x")]).await {
                break;
            }
        }
        let error = decoding.finish().await.unwrap_err();
        let mut told = 0;
        while rows.recv().await.is_some() {
            told += 1;
        }
        (error.to_string(), told)
    }

    #[tokio::test]
    async fn an_error_of_the_thread_is_one_of_the_read() {
        let decoder = |panics, refuses| Failing { panics, refuses };
        let (error, told) = failure_of(decoder(false, true)).await;
        assert!(error.contains("signature"), "{error}");
        assert_eq!(told, 0);
        let (error, told) = failure_of(decoder(true, false)).await;
        assert!(error.contains("has panicked"), "{error}");
        assert_eq!(told, 0);
        let (error, told) = failure_of(decoder(false, false)).await;
        assert!(error.contains("before its end mark"), "{error}");
        assert_eq!(told, 10);
    }

    // Without this a runtime that is shut down would leave the thread waiting for ever.
    #[tokio::test]
    async fn the_thread_ends_when_nobody_wants_its_rows() {
        let asked = ReadRequest {
            epoch: 1,
            table: TableId(0),
            work: 1,
            kind: ReadKind::All,
        };
        let (rows_tx, rows) = mpsc::channel(1);
        let decoder = Failing {
            panics: false,
            refuses: false,
        };
        let decoding = Decoding::start(Box::new(decoder), asked, rows_tx).unwrap();
        drop(rows);
        while decoding.send(Vec::new()).await {}
        decoding.finish().await.unwrap();
    }
}
