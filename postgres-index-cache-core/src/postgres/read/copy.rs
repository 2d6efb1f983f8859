//! [`CopyDecoder`]: splits the stream of `COPY … TO STDOUT (FORMAT binary)` into tuples (manual,
//! COPY, Binary Format).
//!
//! ```text
//! header: signature (11 bytes) │ flags (4) │ length of an extension (4) │ extension
//! tuple:  field count (2)      │ for each field: length (4), -1 for NULL │ bytes
//! ...
//! end:    -1 as a field count (2)
//! ```

/// The bytes with which the stream begins. A conversion as text on the way would alter them.
const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";

/// The reason why a stream does not have the format of COPY.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// The stream does not begin with the signature, or its header has a negative length.
    #[error("the COPY stream does not begin with its signature")]
    Signature,
    /// The header has critical flags that are not known.
    #[error("the COPY stream has unknown flags {0:#x}")]
    Flags(u32),
    /// Bytes came after the end mark.
    #[error("bytes follow the end of the COPY stream")]
    AfterEnd,
    /// The stream ended before its end mark.
    #[error("the COPY stream ended before its end mark")]
    Cut,
    /// A field has a negative length other than -1, which stands for NULL.
    #[error("a COPY tuple has a field of length {0}")]
    FieldLength(i32),
}

/// The part of the stream that comes next.
#[derive(Debug, PartialEq, Eq)]
enum Position {
    Header,
    /// A tuple or the end mark.
    Tuples,
    /// Nothing more.
    End,
}

/// A decoder that takes the stream in pieces of any size and hands out its tuples. A tuple is the
/// field count, then the length and the bytes of each field, as they stand in the stream.
#[derive(Debug)]
pub struct CopyDecoder {
    place: Position,
    /// The start of a header or a tuple whose rest has not arrived yet.
    rest: Vec<u8>,
}

impl Default for CopyDecoder {
    fn default() -> Self {
        Self {
            place: Position::Header,
            rest: Vec::new(),
        }
    }
}

impl CopyDecoder {
    /// Takes a piece of the stream, and calls `tuple` for each tuple that is complete.
    ///
    /// # Errors
    /// Returns an error if the stream does not have the format of COPY, and any error of `tuple`.
    pub fn push<E: From<CopyError>>(
        &mut self,
        piece: &[u8],
        mut tuple: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.rest.is_empty() {
            // PostgreSQL sends one tuple a piece, so most tuples are handed out from the piece
            // itself, without being copied.
            let used = self.consume(piece, &mut tuple)?;
            self.rest.extend(&piece[used..]);
        } else {
            let mut rest = std::mem::take(&mut self.rest);
            rest.extend(piece);
            let used = self.consume(&rest, &mut tuple)?;
            rest.drain(..used);
            self.rest = rest;
        }
        Ok(())
    }

    /// Checks that the stream, which has ended, is complete.
    ///
    /// # Errors
    /// Returns [`CopyError::Cut`] if the end mark has not arrived.
    pub fn finish(&self) -> Result<(), CopyError> {
        if self.place == Position::End {
            Ok(())
        } else {
            Err(CopyError::Cut)
        }
    }

    /// Hands out the complete tuples at the start of `bytes`, and returns how many bytes were used.
    fn consume<E: From<CopyError>>(
        &mut self,
        bytes: &[u8],
        tuple: &mut impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<usize, E> {
        let mut used = 0;
        loop {
            let rest = &bytes[used..];
            match self.place {
                Position::Header => match header(rest)? {
                    Some(length) => {
                        used += length;
                        self.place = Position::Tuples;
                    }
                    None => return Ok(used),
                },
                Position::Tuples => match tuple_length(rest)? {
                    Some(Tuple::End) => {
                        used += 2;
                        self.place = Position::End;
                    }
                    Some(Tuple::Of(length)) => {
                        tuple(&rest[..length])?;
                        used += length;
                    }
                    None => return Ok(used),
                },
                Position::End if rest.is_empty() => return Ok(used),
                Position::End => return Err(CopyError::AfterEnd.into()),
            }
        }
    }
}

/// The next element of the stream behind the header.
enum Tuple {
    /// A tuple of this many bytes.
    Of(usize),
    /// The end mark.
    End,
}

/// Returns the length of the header in bytes; `None` if the header is not complete yet.
fn header(bytes: &[u8]) -> Result<Option<usize>, CopyError> {
    // Compare as much as there is: a wrong stream is refused at its first byte.
    let known = bytes.len().min(SIGNATURE.len());
    if bytes[..known] != SIGNATURE[..known] {
        return Err(CopyError::Signature);
    }
    let (Some(flags), Some(extension)) = (read_i32(bytes, 11), read_i32(bytes, 15)) else {
        return Ok(None);
    };
    // Bits 16 to 31 are critical: a reader must refuse those it does not know. Bit 16 would
    // announce oids, which no supported server sends.
    if flags as u32 & 0xffff_0000 != 0 {
        return Err(CopyError::Flags(flags as u32));
    }
    let length = 19 + usize::try_from(extension).map_err(|_| CopyError::Signature)?;
    Ok((bytes.len() >= length).then_some(length))
}

/// Returns the first tuple or the end mark; `None` if the tuple is not complete yet.
fn tuple_length(bytes: &[u8]) -> Result<Option<Tuple>, CopyError> {
    let Some(count) = bytes
        .first_chunk::<2>()
        .map(|count| i16::from_be_bytes(*count))
    else {
        return Ok(None);
    };
    // Only -1 is sent as a negative count. Other negative counts end the stream as well.
    let Ok(fields) = usize::try_from(count) else {
        return Ok(Some(Tuple::End));
    };
    let mut at = 2_usize;
    for _ in 0..fields {
        let Some(length) = read_i32(bytes, at) else {
            return Ok(None);
        };
        at += 4 + match length {
            -1 => 0,
            length => usize::try_from(length).map_err(|_| CopyError::FieldLength(length))?,
        };
    }
    Ok((bytes.len() >= at).then_some(Tuple::Of(at)))
}

/// Returns the big-endian number at `at`; `None` if there are fewer than four bytes.
fn read_i32(bytes: &[u8], at: usize) -> Option<i32> {
    bytes
        .get(at..at + 4)
        .and_then(|bytes| bytes.try_into().ok())
        .map(i32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Returns the stream that COPY sends for these tuples; `None` stands for NULL.
    fn stream(tuples: &[Vec<Option<Vec<u8>>>]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([0; 8]);
        for tuple in tuples {
            bytes.extend(encoded(tuple));
        }
        bytes.extend((-1_i16).to_be_bytes());
        bytes
    }

    /// Returns one tuple as it stands in the stream.
    fn encoded(tuple: &[Option<Vec<u8>>]) -> Vec<u8> {
        let mut bytes = (tuple.len() as i16).to_be_bytes().to_vec();
        for field in tuple {
            bytes.extend(
                field
                    .as_ref()
                    .map_or(-1, |field| field.len() as i32)
                    .to_be_bytes(),
            );
            bytes.extend(field.iter().flatten());
        }
        bytes
    }

    /// Makes random tuples, some of them with NULLs or without fields.
    fn tuple() -> impl Strategy<Value = Vec<Option<Vec<u8>>>> {
        prop::collection::vec(
            prop::option::of(prop::collection::vec(any::<u8>(), 0..9)),
            0..4,
        )
    }

    proptest! {
        #[test]
        fn a_stream_cut_anywhere_gives_its_tuples(
            tuples in prop::collection::vec(tuple(), 0..9),
            cuts in prop::collection::vec(1_usize..30, 1..20),
        ) {
            let bytes = stream(&tuples);
            let mut decoder = CopyDecoder::default();
            let mut found = Vec::new();
            let mut at = 0;
            let mut cuts = cuts.iter().cycle();
            while at < bytes.len() {
                let end = (at + cuts.next().unwrap()).min(bytes.len());
                let pushed = decoder.push::<CopyError>(&bytes[at..end], |tuple| {
                    found.push(tuple.to_vec());
                    Ok(())
                });
                pushed.unwrap();
                prop_assert_eq!(decoder.finish().is_ok(), end == bytes.len());
                at = end;
            }
            let expected: Vec<_> = tuples.iter().map(|tuple| encoded(tuple)).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            valid_header in any::<bool>(),
        ) {
            let mut decoder = CopyDecoder::default();
            // Random bytes hardly ever begin with a header: without one, no tuple would be decoded.
            let bytes = if valid_header {
                [&stream(&[])[..19], &bytes].concat()
            } else {
                bytes
            };
            let _ = decoder.push::<CopyError>(&bytes, |_| Ok(()));
        }
    }
}
