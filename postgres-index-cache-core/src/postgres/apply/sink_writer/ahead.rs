//! [`SinkDecoder`]: decodes the rows of a large COPY on a thread of its own, while the writer
//! stores those before.

use crate::postgres::apply::sink::{Decoded, RowDecoder};
use crate::postgres::apply::writer::AheadDecoder;
use crate::postgres::error::ReadError;
use crate::postgres::read::copy::CopyDecoder;
use bytes::Bytes;
use std::sync::mpsc;

/// The rows of one batch of pieces.
pub(super) type DecodedRows<R> = Vec<Decoded<R>>;

/// The [`AheadDecoder`] of a [`SinkWriter`](super::SinkWriter).
pub(super) struct SinkDecoder<D: RowDecoder> {
    decoder: D,
    /// The state of the COPY stream.
    copy: CopyDecoder,
    /// The way to the writer. The bounded channel of the read's messages bounds this one too: each
    /// batch is announced by a message.
    rows: mpsc::Sender<DecodedRows<D::Row>>,
}

impl<D: RowDecoder> SinkDecoder<D> {
    /// Makes a decoder, and the end of the channel that the writer keeps.
    pub(super) fn new(decoder: D) -> (Self, mpsc::Receiver<DecodedRows<D::Row>>) {
        let (rows, taken) = mpsc::channel();
        let copy = CopyDecoder::default();
        (
            Self {
                decoder,
                copy,
                rows,
            },
            taken,
        )
    }
}

impl<D: RowDecoder<Row: Send> + 'static> AheadDecoder for SinkDecoder<D> {
    fn another(&self) -> Box<dyn AheadDecoder> {
        Box::new(Self {
            decoder: self.decoder.again(),
            copy: CopyDecoder::default(),
            rows: self.rows.clone(),
        })
    }

    fn decode(&mut self, pieces: &[Bytes]) -> Result<(), ReadError> {
        let mut rows = Vec::new();
        for piece in pieces {
            self.copy.push::<ReadError>(piece, |tuple| {
                rows.push(self.decoder.read_copy(tuple)?);
                Ok(())
            })?;
        }
        // A writer that wants no more of these rows has dropped its end.
        let given_up = |_| ReadError::Thread("the read was given up".to_string());
        self.rows.send(rows).map_err(given_up)
    }

    fn finish(&self) -> Result<(), ReadError> {
        Ok(self.copy.finish()?)
    }
}
