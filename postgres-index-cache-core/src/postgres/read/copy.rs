//! [`CopyDecoder`]: splits `COPY … TO STDOUT (FORMAT binary)` into tuples (manual, COPY, Binary
//! Format).

const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";

/// Why a stream is not what COPY sends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// It does not begin as it must.
    #[error("the COPY stream does not begin with its signature")]
    Signature,
    /// The flags ask for what is not known.
    #[error("the COPY stream has unknown flags {0:#x}")]
    Flags(u32),
    /// Bytes came after the end.
    #[error("bytes follow the end of the COPY stream")]
    AfterEnd,
    /// It ended before its trailer.
    #[error("the COPY stream ended before its end mark")]
    Cut,
    /// A field has a length that cannot be.
    #[error("a COPY tuple has a field of length {0}")]
    FieldLength(i32),
}

#[derive(Debug, PartialEq, Eq)]
enum Position {
    Header,
    Tuples,
    End,
}

/// Takes the stream in pieces of any size, and gives its tuples, each as field count, then length
/// and bytes of each field.
#[derive(Debug)]
pub struct CopyDecoder {
    place: Position,
    /// A tuple of which only the start has come.
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
    /// Takes a piece and calls `tuple` for each tuple that is complete. PostgreSQL sends a tuple a
    /// piece, so that most are handed out without being copied.
    ///
    /// # Errors
    /// When the stream is not one of COPY, or what `tuple` returns.
    pub fn push<E: From<CopyError>>(
        &mut self,
        piece: &[u8],
        mut tuple: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.rest.is_empty() {
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

    /// Says that the stream has ended.
    ///
    /// # Errors
    /// When it ended too early.
    pub fn finish(&self) -> Result<(), CopyError> {
        if self.place == Position::End {
            Ok(())
        } else {
            Err(CopyError::Cut)
        }
    }

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

enum Tuple {
    Of(usize),
    End,
}

/// The length of the header, once all of it is there.
fn header(bytes: &[u8]) -> Result<Option<usize>, CopyError> {
    let known = bytes.len().min(SIGNATURE.len());
    if bytes[..known] != SIGNATURE[..known] {
        return Err(CopyError::Signature);
    }
    let (Some(flags), Some(extension)) = (read_i32(bytes, 11), read_i32(bytes, 15)) else {
        return Ok(None);
    };
    // Bits 16 to 31 are critical; bit 16 would announce oids, which no supported server sends.
    if flags as u32 & 0xffff_0000 != 0 {
        return Err(CopyError::Flags(flags as u32));
    }
    let length = 19 + usize::try_from(extension).map_err(|_| CopyError::Signature)?;
    Ok((bytes.len() >= length).then_some(length))
}

/// The length of the first tuple, once all of it is there.
fn tuple_length(bytes: &[u8]) -> Result<Option<Tuple>, CopyError> {
    let Some(count) = bytes
        .first_chunk::<2>()
        .map(|count| i16::from_be_bytes(*count))
    else {
        return Ok(None);
    };
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

    fn stream(tuples: &[Vec<Option<Vec<u8>>>]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([0; 8]);
        for tuple in tuples {
            bytes.extend(encoded(tuple));
        }
        bytes.extend((-1_i16).to_be_bytes());
        bytes
    }

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

    proptest! {
        #[test]
        fn a_stream_cut_anywhere_gives_its_tuples(
            tuples in prop::collection::vec(prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..9)), 0..4), 0..9),
            cuts in prop::collection::vec(1_usize..30, 1..20),
        ) {
            let bytes = stream(&tuples);
            let mut decoder = CopyDecoder::default();
            let mut found = Vec::new();
            let mut at = 0;
            let mut cuts = cuts.iter().cycle();
            while at < bytes.len() {
                let end = (at + cuts.next().unwrap()).min(bytes.len());
                decoder.push::<CopyError>(&bytes[at..end], |tuple| { found.push(tuple.to_vec()); Ok(()) }).unwrap();
                prop_assert_eq!(decoder.finish().is_ok(), end == bytes.len());
                at = end;
            }
            prop_assert_eq!(found, tuples.iter().map(|tuple| encoded(tuple)).collect::<Vec<_>>());
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), valid_header in any::<bool>()) {
            let mut decoder = CopyDecoder::default();
            let bytes = if valid_header { [&stream(&[])[..19], &bytes].concat() } else { bytes };
            let _ = decoder.push::<CopyError>(&bytes, |_| Ok(()));
        }
    }
}
