//! The content header: what a bundle holds, in at most 8,264 bytes.
//!
//! Owns: its layout and the bundle id. Always holds: the manifest ends where the payload ends, and the
//! dependencies are distinct and as many as the role allows.
//! Leaves to others: whether payload and manifest really have these roots.

use std::collections::BTreeSet;
use std::ops::Range;

use firn_base::{BundleId, ManifestRoot, PayloadRoot};

use crate::cursor::Cursor;
use crate::header_error::{HeaderError, HeaderKind, check_version, cut_off, invalid};
use crate::limits::{DEPENDENCIES_MAX, MANIFEST_BYTES_MAX, PARTS_MAX, PAYLOAD_BYTES_MAX};
use crate::manifest_header::MANIFEST_HEADER_BYTES;

const MAGIC: [u8; 8] = *b"firncont";
const VERSION: u16 = 1;
const FIXED_BYTES: usize = 104;
const KIND: HeaderKind = HeaderKind::Content;

/// The longest content header: that of a head with 255 parts.
pub const CONTENT_HEADER_BYTES_MAX: usize = FIXED_BYTES + 32 * PARTS_MAX;

/// What a bundle is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum BundleRole {
    /// Objects, whole; at most 8 dependencies.
    Ordinary = 0,
    /// Chunks of an object too large for one bundle; no records, no dependencies.
    Part = 1,
    /// The one record of such an object; depends on its parts.
    Head = 2,
}

/// What a bundle holds. Never changes; its BLAKE3 is the bundle id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentHeader {
    role: BundleRole,
    payload_bytes: u64,
    payload_root: PayloadRoot,
    manifest_bytes: u64,
    manifest_root: ManifestRoot,
    dependencies: Vec<BundleId>,
}

impl ContentHeader {
    /// A header of a payload whose last `manifest_bytes` are the manifest; refused if it breaks a limit.
    pub fn new(
        role: BundleRole,
        payload: (u64, PayloadRoot),
        manifest: (u64, ManifestRoot),
        dependencies: Vec<BundleId>,
    ) -> Result<Self, HeaderError> {
        let (payload_bytes, payload_root) = payload;
        let (manifest_bytes, manifest_root) = manifest;
        if payload_bytes > PAYLOAD_BYTES_MAX {
            return Err(invalid(KIND, "the payload is larger than 256 MiB"));
        }
        if manifest_bytes > MANIFEST_BYTES_MAX {
            return Err(invalid(KIND, "the manifest is larger than 32 MiB"));
        }
        if manifest_bytes < MANIFEST_HEADER_BYTES as u64 || manifest_bytes > payload_bytes {
            return Err(invalid(KIND, "the manifest does not fit the payload"));
        }
        let allowed = match role {
            BundleRole::Ordinary => 0..=DEPENDENCIES_MAX,
            BundleRole::Part => 0..=0,
            BundleRole::Head => 1..=PARTS_MAX,
        };
        if !allowed.contains(&dependencies.len()) {
            return Err(invalid(KIND, "its role does not allow so many dependencies"));
        }
        if dependencies.iter().collect::<BTreeSet<_>>().len() != dependencies.len() {
            return Err(invalid(KIND, "a dependency is named twice"));
        }
        Ok(Self { role, payload_bytes, payload_root, manifest_bytes, manifest_root, dependencies })
    }

    /// Reads what [`Self::to_bytes`] wrote; every byte must belong to it.
    pub fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        let mut cursor = Cursor::new(bytes);
        let cut_off = cut_off(KIND);
        if cursor.array().map_err(&cut_off)? != MAGIC {
            return Err(HeaderError::Magic(KIND));
        }
        check_version(KIND, cursor.u16().map_err(&cut_off)?, VERSION)?;
        let role = match cursor.u8().map_err(&cut_off)? {
            0 => BundleRole::Ordinary,
            1 => BundleRole::Part,
            2 => BundleRole::Head,
            _ => return Err(invalid(KIND, "it names an unknown role")),
        };
        let count = cursor.u8().map_err(&cut_off)?;
        if cursor.u32().map_err(&cut_off)? != 0 {
            return Err(invalid(KIND, "reserved bytes are not zero"));
        }
        let payload_bytes = cursor.u64().map_err(&cut_off)?;
        let payload_root = PayloadRoot::from_bytes(cursor.array().map_err(&cut_off)?);
        let manifest_offset = cursor.u64().map_err(&cut_off)?;
        let manifest_bytes = cursor.u64().map_err(&cut_off)?;
        let manifest_root = ManifestRoot::from_bytes(cursor.array().map_err(&cut_off)?);
        if manifest_offset.checked_add(manifest_bytes) != Some(payload_bytes) {
            return Err(invalid(KIND, "the manifest does not end where the payload ends"));
        }
        if cursor.remaining() != usize::from(count) * 32 {
            return Err(HeaderError::Length(KIND));
        }
        let dependencies = (0..count)
            .map(|_| cursor.array().map(BundleId::from_bytes).map_err(&cut_off))
            .collect::<Result<_, _>>()?;
        Self::new(role, (payload_bytes, payload_root), (manifest_bytes, manifest_root), dependencies)
    }

    /// The bytes whose BLAKE3 is the bundle id: see `docs/formats.md`.
    pub fn to_bytes(&self) -> Vec<u8> {
        let count = u8::try_from(self.dependencies.len()).expect("new allows 255 dependencies at most");
        let mut bytes = Vec::with_capacity(FIXED_BYTES + 32 * self.dependencies.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[self.role as u8, count, 0, 0, 0, 0]);
        bytes.extend_from_slice(&self.payload_bytes.to_le_bytes());
        bytes.extend_from_slice(self.payload_root.as_bytes());
        bytes.extend_from_slice(&self.manifest_extent().start.to_le_bytes());
        bytes.extend_from_slice(&self.manifest_bytes.to_le_bytes());
        bytes.extend_from_slice(self.manifest_root.as_bytes());
        for dependency in &self.dependencies {
            bytes.extend_from_slice(dependency.as_bytes());
        }
        bytes
    }

    /// BLAKE3 of [`Self::to_bytes`].
    pub fn bundle_id(&self) -> BundleId {
        BundleId::from_bytes(*blake3::hash(&self.to_bytes()).as_bytes())
    }

    /// What the bundle is for.
    pub const fn role(&self) -> BundleRole {
        self.role
    }

    /// Bytes of the payload without padding.
    pub const fn payload_bytes(&self) -> u64 {
        self.payload_bytes
    }

    /// BLAKE3 of the payload without padding.
    pub const fn payload_root(&self) -> PayloadRoot {
        self.payload_root
    }

    /// Where the manifest lies in the payload: at its end.
    pub const fn manifest_extent(&self) -> Range<u64> {
        self.payload_bytes - self.manifest_bytes..self.payload_bytes
    }

    /// Bytes of the manifest.
    pub const fn manifest_bytes(&self) -> u64 {
        self.manifest_bytes
    }

    /// BLAKE3 of the manifest.
    pub const fn manifest_root(&self) -> ManifestRoot {
        self.manifest_root
    }

    /// The bundles it depends on; dependency numbers are positions here.
    pub fn dependencies(&self) -> &[BundleId] {
        &self.dependencies
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(role: BundleRole, dependencies: usize) -> Result<ContentHeader, HeaderError> {
        let ids = (0..dependencies).map(|i| BundleId::from_bytes([u8::try_from(i).unwrap(); 32])).collect();
        ContentHeader::new(
            role,
            (1000, PayloadRoot::from_bytes([1; 32])),
            (100, ManifestRoot::from_bytes([2; 32])),
            ids,
        )
    }

    #[test]
    fn headers_of_every_role_read_back() {
        for (role, count) in [(BundleRole::Ordinary, 8), (BundleRole::Part, 0), (BundleRole::Head, 255)] {
            let header = header(role, count).unwrap();
            assert_eq!(ContentHeader::parse(&header.to_bytes()), Ok(header));
        }
    }

    #[test]
    fn a_role_bounds_its_dependencies() {
        assert!(header(BundleRole::Ordinary, 9).is_err());
        assert!(header(BundleRole::Part, 1).is_err());
        assert!(header(BundleRole::Head, 0).is_err());
    }

    #[test]
    fn truncated_and_lengthened_headers_are_refused() {
        let bytes = header(BundleRole::Ordinary, 2).unwrap().to_bytes();
        for length in 0..bytes.len() {
            assert!(ContentHeader::parse(&bytes[..length]).is_err());
        }
        assert!(ContentHeader::parse(&[bytes, vec![0]].concat()).is_err());
    }

    #[test]
    fn a_newer_version_has_its_own_error() {
        let mut bytes = header(BundleRole::Ordinary, 0).unwrap().to_bytes();
        bytes[8] = 2;
        let error = ContentHeader::parse(&bytes).unwrap_err();
        assert_eq!(error, HeaderError::TooNew { kind: KIND, found: 2, known: 1 });
    }
}
