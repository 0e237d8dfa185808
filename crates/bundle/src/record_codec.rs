//! The bytes of a record within its block.
//!
//! Always holds: a record that was read would print as a narinfo of the same fields: no text holds a line
//! break, no extra field shadows one that means something, the URL stays within its cache.
//! Leaves to others: the reference table (`block`), whether sizes and chunks agree (`manifest`).

use firn_base::{KeyKind, ObjectKey};
use firn_nix_format::{Compression, NamedSignature, PathInfo, Sha256, StorePath, check_cache_url};

use crate::cursor::Cursor;
use crate::manifest_error::{ManifestError, Place};
use crate::recipe_number::RecipeNumber;
use crate::record::{Blob, Encoding, NewRecord, Record, RecordBody};

const HAS_FILE_HASH: u8 = 1;
const HAS_FILE_SIZE: u8 = 2;
const HAS_DERIVER: u8 = 4;
const HAS_CA: u8 = 8;
const FLAGS: u8 = HAS_FILE_HASH | HAS_FILE_SIZE | HAS_DERIVER | HAS_CA;

// Fields of a narinfo that a path info reads; `Sig` and `Deriver` may be kept as extra fields too.
const KNOWN_FIELDS: [&str; 9] =
    ["StorePath", "URL", "Compression", "FileHash", "FileSize", "NarHash", "NarSize", "References", "CA"];

/// Where a record's chunk list lies and how many bytes its chunks have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Content {
    pub(crate) bytes: u64,
    pub(crate) list_offset: u32,
    pub(crate) list_bytes: u32,
}

/// Appends the record; `positions` are its references' places in the block's table. None if a field is too
/// long for its length or not fit to be one.
pub(crate) fn put_record(record: &NewRecord, content: Content, positions: &[u16]) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 4];
    bytes.extend_from_slice(&record.key.to_bytes());
    bytes.extend_from_slice(&[record.encoding as u8, record.recipe.to_byte()]);
    bytes.extend_from_slice(&content.bytes.to_le_bytes());
    bytes.extend_from_slice(&content.list_offset.to_le_bytes());
    bytes.extend_from_slice(&content.list_bytes.to_le_bytes());
    match &record.body {
        RecordBody::StorePath(info) => put_path_info(&mut bytes, info, positions)?,
        RecordBody::Blob(blob) => {
            put_url(&mut bytes, &blob.url)?;
            bytes.push(compression_byte(blob.compression));
            bytes.extend_from_slice(&blob.bytes.to_le_bytes());
            bytes.extend_from_slice(blob.sha256.as_bytes());
        }
    }
    let length = u32::try_from(bytes.len() - 4).ok()?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Some(bytes)
}

fn put_path_info(bytes: &mut Vec<u8>, info: &PathInfo, positions: &[u16]) -> Option<()> {
    put_short(bytes, info.store_path.name())?;
    let flag = |present: bool, flag: u8| if present { flag } else { 0 };
    bytes.push(
        flag(info.file_hash.is_some(), HAS_FILE_HASH)
            | flag(info.file_size.is_some(), HAS_FILE_SIZE)
            | flag(info.deriver.is_some(), HAS_DERIVER)
            | flag(info.ca.is_some(), HAS_CA),
    );
    bytes.push(compression_byte(info.compression));
    put_url(bytes, &info.url)?;
    bytes.extend_from_slice(info.nar_hash.as_bytes());
    bytes.extend_from_slice(&info.nar_size.to_le_bytes());
    if let Some(hash) = &info.file_hash {
        bytes.extend_from_slice(hash.as_bytes());
    }
    if let Some(size) = info.file_size {
        bytes.extend_from_slice(&size.to_le_bytes());
    }
    put_count(bytes, positions.len())?;
    for position in positions {
        bytes.extend_from_slice(&position.to_le_bytes());
    }
    if let Some(deriver) = &info.deriver {
        put_store_path(bytes, deriver);
    }
    if let Some(ca) = &info.ca {
        put_line(bytes, ca)?;
    }
    put_count(bytes, info.signatures.len())?;
    for signature in &info.signatures {
        is_line(&signature.key_name).then_some(())?;
        put_short(bytes, &signature.key_name)?;
        bytes.extend_from_slice(&signature.bytes);
    }
    put_count(bytes, info.extra.len())?;
    for (name, value) in &info.extra {
        is_extra_field(name).then_some(())?;
        put_line(bytes, name)?;
        is_line(value).then_some(())?;
        bytes.extend_from_slice(&u32::try_from(value.len()).ok()?.to_le_bytes());
        bytes.extend_from_slice(value.as_bytes());
    }
    Some(())
}

/// Appends a store path: hash, length of the name, name.
pub(crate) fn put_store_path(bytes: &mut Vec<u8>, path: &StorePath) {
    bytes.extend_from_slice(path.hash());
    put_short(bytes, path.name()).expect("names of store paths have 211 bytes at most");
}

fn put_short(bytes: &mut Vec<u8>, text: &str) -> Option<()> {
    bytes.push(u8::try_from(text.len()).ok()?);
    bytes.extend_from_slice(text.as_bytes());
    Some(())
}

fn put_count(bytes: &mut Vec<u8>, count: usize) -> Option<()> {
    bytes.extend_from_slice(&u16::try_from(count).ok()?.to_le_bytes());
    Some(())
}

fn put_line(bytes: &mut Vec<u8>, text: &str) -> Option<()> {
    is_line(text).then_some(())?;
    put_count(bytes, text.len())?;
    bytes.extend_from_slice(text.as_bytes());
    Some(())
}

fn put_url(bytes: &mut Vec<u8>, url: &str) -> Option<()> {
    check_cache_url(url).ok()?;
    put_line(bytes, url)
}

const fn compression_byte(compression: Compression) -> u8 {
    match compression {
        Compression::None => 0,
        Compression::Xz => 1,
        Compression::Bzip2 => 2,
        Compression::Zstd => 3,
    }
}

/// Whether `text` stays on the line it is printed on.
fn is_line(text: &str) -> bool {
    !text.contains(['\n', '\r', '\0'])
}

fn is_extra_field(name: &str) -> bool {
    !name.is_empty() && !name.contains(':') && !KNOWN_FIELDS.contains(&name)
}

/// Reads records of one block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordReader<'a> {
    pub(crate) references: &'a [StorePath],
    pub(crate) place: Place,
}

impl RecordReader<'_> {
    /// Reads the next record; every byte of its announced length must belong to it.
    pub(crate) fn record(self, block: &mut Cursor<'_>) -> Result<Record, ManifestError> {
        let truncated = self.place.truncated();
        let length = block.u32().map_err(truncated)?;
        let length = usize::try_from(length).map_err(|_| self.place.cut_off())?;
        let mut cursor = Cursor::new(block.take(length).map_err(truncated)?);
        let key = ObjectKey::from_bytes(&cursor.array().map_err(truncated)?)
            .map_err(|_| self.place.refuse("the kind of its key is unknown"))?;
        let encoding = match cursor.u8().map_err(truncated)? {
            0 => Encoding::Chunked,
            1 => Encoding::Verbatim,
            _ => return Err(self.place.refuse("its encoding is unknown")),
        };
        let recipe = RecipeNumber::from_byte(cursor.u8().map_err(truncated)?);
        let content_bytes = cursor.u64().map_err(truncated)?;
        let list_offset = u64::from(cursor.u32().map_err(truncated)?);
        let list_bytes = u64::from(cursor.u32().map_err(truncated)?);
        let body = if key.kind() == KeyKind::StorePath {
            RecordBody::StorePath(Box::new(self.path_info(&key, &mut cursor)?))
        } else {
            RecordBody::Blob(Blob {
                url: self.url(&mut cursor)?,
                compression: self.compression(&mut cursor)?,
                bytes: cursor.u64().map_err(truncated)?,
                sha256: Sha256::from_bytes(cursor.array().map_err(truncated)?),
            })
        };
        if cursor.remaining() != 0 {
            return Err(self.place.cut_off());
        }
        let chunk_list = list_offset..list_offset + list_bytes;
        Ok(Record { key, encoding, recipe, content_bytes, chunk_list, body })
    }

    fn path_info(self, key: &ObjectKey, cursor: &mut Cursor<'_>) -> Result<PathInfo, ManifestError> {
        let truncated = self.place.truncated();
        let store_path = self.named_path(*key.name(), cursor)?;
        let flags = cursor.u8().map_err(truncated)?;
        if flags & !FLAGS != 0 {
            return Err(self.place.refuse("unknown flags are set"));
        }
        let compression = self.compression(cursor)?;
        let url = self.url(cursor)?;
        let nar_hash = Sha256::from_bytes(cursor.array().map_err(truncated)?);
        let nar_size = cursor.u64().map_err(truncated)?;
        let file_hash = match flags & HAS_FILE_HASH {
            0 => None,
            _ => Some(Sha256::from_bytes(cursor.array().map_err(truncated)?)),
        };
        let file_size = match flags & HAS_FILE_SIZE {
            0 => None,
            _ => Some(cursor.u64().map_err(truncated)?),
        };
        let references = (0..cursor.u16().map_err(truncated)?)
            .map(|_| {
                let position = usize::from(cursor.u16().map_err(truncated)?);
                let path = self.references.get(position).cloned();
                path.ok_or_else(|| self.place.refuse("it names a reference that its block does not have"))
            })
            .collect::<Result<_, _>>()?;
        let deriver = match flags & HAS_DERIVER {
            0 => None,
            _ => Some(self.store_path(cursor)?),
        };
        let ca = match flags & HAS_CA {
            0 => None,
            _ => Some(self.line(cursor)?),
        };
        let signatures = (0..cursor.u16().map_err(truncated)?)
            .map(|_| {
                let key_name = self.short(cursor)?.to_owned();
                if !is_line(&key_name) {
                    return Err(self.place.refuse("a text holds a line break"));
                }
                Ok(NamedSignature { key_name, bytes: cursor.array().map_err(truncated)? })
            })
            .collect::<Result<_, _>>()?;
        let extra = (0..cursor.u16().map_err(truncated)?)
            .map(|_| {
                let name = self.line(cursor)?;
                let length = cursor.u32().map_err(truncated)?;
                let length = usize::try_from(length).map_err(|_| self.place.cut_off())?;
                let value = self.text(cursor.take(length).map_err(truncated)?)?;
                if !is_extra_field(&name) || !is_line(value) {
                    return Err(self.place.refuse("an extra field is not one"));
                }
                Ok((name, value.to_owned()))
            })
            .collect::<Result<_, _>>()?;
        Ok(PathInfo {
            store_path,
            url,
            compression,
            file_hash,
            file_size,
            nar_hash,
            nar_size,
            references,
            deriver,
            signatures,
            ca,
            extra,
        })
    }

    /// A store path: hash, length of the name, name.
    pub(crate) fn store_path(self, cursor: &mut Cursor<'_>) -> Result<StorePath, ManifestError> {
        let hash = cursor.array().map_err(self.place.truncated())?;
        self.named_path(hash, cursor)
    }

    fn named_path(self, hash: [u8; 20], cursor: &mut Cursor<'_>) -> Result<StorePath, ManifestError> {
        let name = self.short(cursor)?;
        StorePath::from_parts(hash, name)
            .map_err(|_| self.place.refuse("a store path has a name that Nix does not allow"))
    }

    fn compression(self, cursor: &mut Cursor<'_>) -> Result<Compression, ManifestError> {
        let byte = cursor.u8().map_err(self.place.truncated())?;
        let known = Compression::ALL.into_iter().find(|known| compression_byte(*known) == byte);
        known.ok_or_else(|| self.place.refuse("its compression is unknown"))
    }

    fn url(self, cursor: &mut Cursor<'_>) -> Result<String, ManifestError> {
        let url = self.line(cursor)?;
        check_cache_url(&url).map_err(|_| self.place.refuse("its URL leads out of the cache"))?;
        Ok(url)
    }

    fn short<'b>(self, cursor: &mut Cursor<'b>) -> Result<&'b str, ManifestError> {
        let truncated = self.place.truncated();
        let length = usize::from(cursor.u8().map_err(truncated)?);
        self.text(cursor.take(length).map_err(truncated)?)
    }

    fn line(self, cursor: &mut Cursor<'_>) -> Result<String, ManifestError> {
        let truncated = self.place.truncated();
        let length = usize::from(cursor.u16().map_err(truncated)?);
        let text = self.text(cursor.take(length).map_err(truncated)?)?;
        if is_line(text) { Ok(text.to_owned()) } else { Err(self.place.refuse("a text holds a line break")) }
    }

    fn text(self, bytes: &[u8]) -> Result<&str, ManifestError> {
        std::str::from_utf8(bytes).map_err(|_| self.place.refuse("a text is not UTF-8"))
    }
}
