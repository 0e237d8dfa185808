//! Checking a NAR while its bytes pass by, and listing what it holds.
//!
//! Always holds: one pass, no recursion, no memory for contents; every length is checked before a byte of
//! what it measures is kept; only the canonical form is accepted; after an error every further call fails.

use super::{Listing, ListingNode, NarError};

/// Most levels of nesting, the root included: the limit of Nix, which once overflowed its stack without one.
pub const DEPTH_MAX: usize = 64;

/// Most files, directories and symlinks. The largest known paths have a few hundred thousand.
pub const ENTRIES_MAX: u32 = 2_000_000;

/// Most bytes of one name: what file systems allow.
pub const NAME_BYTES_MAX: u64 = 255;

/// Most bytes of one symlink target: what Linux allows.
pub const TARGET_BYTES_MAX: u64 = 4095;

/// Most bytes of all names and targets, so that a listing stays below some 250 MB of memory.
pub const TEXT_BYTES_MAX: u64 = 64 << 20;

/// The longest word of the format, `nix-archive-1`.
const WORD_BYTES_MAX: u64 = 13;

/// Checks one NAR, pushed in pieces of any size.
#[derive(Debug)]
pub struct NarInspector {
    nar_size: u64,
    /// Bytes taken so far.
    offset: u64,
    /// Where in a token the next byte falls.
    phase: Phase,
    /// Offset of the current token's first byte after its length.
    token_offset: u64,
    token_length: u64,
    /// The bytes of the current token, unless it is a file's contents.
    token: Vec<u8>,
    expect: Expect,
    /// The directories whose end has not come yet, the root's first.
    open: Vec<OpenDirectory>,
    root: Option<ListingNode>,
    entries: u32,
    text_bytes: u64,
    failure: Option<NarError>,
}

/// Tokens are a length of 8 bytes, that many bytes, and zeros up to a multiple of 8.
#[derive(Debug)]
enum Phase {
    Length { bytes: [u8; 8], have: usize },
    Body { left: u64 },
    Padding { left: u64 },
}

/// What the next token has to be.
#[derive(Debug)]
enum Expect {
    Magic,
    NodeOpen,
    TypeTag,
    Type,
    ExecutableOrContents,
    ExecutableMark,
    ContentsTag,
    Contents { executable: bool },
    TargetTag,
    Target,
    NodeClose(ListingNode),
    EntryOrClose,
    EntryOpen,
    NameTag,
    Name,
    NodeTag,
    EntryClose,
    Nothing,
}

#[derive(Debug)]
struct OpenDirectory {
    entries: Vec<(Box<[u8]>, ListingNode)>,
    /// The name of the entry being read.
    name: Box<[u8]>,
}

/// Checks a NAR that lies in memory.
pub fn inspect(nar: &[u8]) -> Result<Listing, NarError> {
    let mut inspector = NarInspector::new(nar.len() as u64);
    inspector.push(nar)?;
    inspector.finish()
}

impl NarInspector {
    /// Begins a NAR of `nar_size` bytes. A length that claims more than is left is refused at once.
    pub const fn new(nar_size: u64) -> Self {
        Self {
            nar_size,
            offset: 0,
            phase: Phase::Length { bytes: [0; 8], have: 0 },
            token_offset: 0,
            token_length: 0,
            token: Vec::new(),
            expect: Expect::Magic,
            open: Vec::new(),
            root: None,
            entries: 0,
            text_bytes: 0,
            failure: None,
        }
    }

    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), NarError> {
        // No file is as long as that: all bytes are taken.
        self.push_to_file(bytes, u64::MAX).map(|_| ())
    }

    /// Takes the next bytes up to where a file's contents begin, if they have at least `file_bytes_min` bytes: gives how
    /// many it took then, and none if it took all.
    pub fn push_to_file(&mut self, bytes: &[u8], file_bytes_min: u64) -> Result<Option<usize>, NarError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let taken = self.take_to_file(bytes, file_bytes_min);
        if let Err(failure) = &taken {
            self.failure = Some(failure.clone());
        }
        taken
    }

    /// Ends the NAR.
    pub fn finish(self) -> Result<Listing, NarError> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let root = self.root.filter(|_| matches!(self.expect, Expect::Nothing));
        let root = root.ok_or(NarError::Truncated { offset: self.offset })?;
        if self.offset < self.nar_size {
            return Err(NarError::ShorterThanNarSize { offset: self.offset, nar_size: self.nar_size });
        }
        Ok(Listing { root })
    }

    fn take_to_file(&mut self, bytes: &[u8], file_bytes_min: u64) -> Result<Option<usize>, NarError> {
        let mut taken = 0;
        while taken < bytes.len() {
            if matches!(self.expect, Expect::Nothing) {
                return Err(NarError::TrailingBytes { offset: self.offset });
            }
            let left_of_nar = self.nar_size - self.offset;
            if left_of_nar == 0 {
                return Err(NarError::BeyondNarSize { nar_size: self.nar_size });
            }
            let piece = &bytes[taken..];
            taken += self.take(&piece[..at_most(piece.len(), left_of_nar)])?;
            if self.begins_file(file_bytes_min) {
                return Ok(Some(taken));
            }
        }
        Ok(None)
    }

    /// Whether the next byte is the first of the contents of a file of at least `bytes_min` bytes.
    fn begins_file(&self, bytes_min: u64) -> bool {
        let untouched = matches!(self.phase, Phase::Body { left } if left == self.token_length);
        untouched && self.token_length >= bytes_min && matches!(self.expect, Expect::Contents { .. })
    }

    /// Takes at least one and at most all of `bytes`, within one phase of one token.
    fn take(&mut self, bytes: &[u8]) -> Result<usize, NarError> {
        let count = match &mut self.phase {
            Phase::Length { bytes: length, have } => {
                let count = bytes.len().min(length.len() - *have);
                length[*have..*have + count].copy_from_slice(&bytes[..count]);
                *have += count;
                count
            }
            Phase::Body { left } => {
                let count = at_most(bytes.len(), *left);
                if !matches!(self.expect, Expect::Contents { .. }) {
                    self.token.extend_from_slice(&bytes[..count]);
                }
                *left -= count as u64;
                count
            }
            Phase::Padding { left } => {
                let count = at_most(bytes.len(), *left);
                if bytes[..count].iter().any(|byte| *byte != 0) {
                    return Err(NarError::Padding { offset: self.offset });
                }
                *left -= count as u64;
                count
            }
        };
        self.offset += count as u64;
        self.settle()?;
        Ok(count)
    }

    /// Moves on as long as the current phase has nothing left to wait for.
    fn settle(&mut self) -> Result<(), NarError> {
        if let Phase::Length { bytes, have: 8 } = self.phase {
            self.token_offset = self.offset;
            self.token_length = u64::from_le_bytes(bytes);
            self.check_length()?;
            self.token.clear();
            self.phase = Phase::Body { left: self.token_length };
        }
        if let Phase::Body { left: 0 } = self.phase {
            self.phase = Phase::Padding { left: (8 - self.token_length % 8) % 8 };
        }
        if let Phase::Padding { left: 0 } = self.phase {
            self.phase = Phase::Length { bytes: [0; 8], have: 0 };
            let token = std::mem::take(&mut self.token);
            let expect = std::mem::replace(&mut self.expect, Expect::Nothing);
            self.expect = self.advance(expect, &token)?;
            self.token = token;
        }
        Ok(())
    }

    fn check_length(&self) -> Result<(), NarError> {
        let length = self.token_length;
        let (what, limit) = match self.expect {
            Expect::Contents { .. } => ("a file", self.nar_size - self.offset),
            Expect::Name => ("a name", NAME_BYTES_MAX),
            Expect::Target => ("a symlink target", TARGET_BYTES_MAX),
            _ if length > WORD_BYTES_MAX => return Err(self.unexpected(&self.expect)),
            _ => return Ok(()),
        };
        if length > limit {
            let offset = self.offset - 8;
            return Err(NarError::TooLong { offset, what, length, limit });
        }
        Ok(())
    }

    /// Checks one whole token against what was expected and says what to expect next.
    fn advance(&mut self, expect: Expect, token: &[u8]) -> Result<Expect, NarError> {
        Ok(match (expect, token) {
            (Expect::Magic, b"nix-archive-1") => Expect::NodeOpen,
            (Expect::NodeOpen, b"(") => {
                self.count_node()?;
                Expect::TypeTag
            }
            (Expect::TypeTag, b"type") => Expect::Type,
            (Expect::Type, b"regular") => Expect::ExecutableOrContents,
            (Expect::Type, b"symlink") => Expect::TargetTag,
            (Expect::Type, b"directory") => {
                self.open.push(OpenDirectory { entries: Vec::new(), name: Box::default() });
                Expect::EntryOrClose
            }
            (Expect::ExecutableOrContents, b"executable") => Expect::ExecutableMark,
            (Expect::ExecutableOrContents, b"contents") => Expect::Contents { executable: false },
            (Expect::ExecutableMark, b"") => Expect::ContentsTag,
            (Expect::ContentsTag, b"contents") => Expect::Contents { executable: true },
            (Expect::Contents { executable }, _) => {
                let (size, nar_offset) = (self.token_length, self.token_offset);
                Expect::NodeClose(ListingNode::Regular { size, executable, nar_offset })
            }
            (Expect::TargetTag, b"target") => Expect::Target,
            (Expect::Target, target) => {
                if target.is_empty() || target.contains(&0) {
                    return Err(NarError::Target { offset: self.token_offset });
                }
                self.count_text(target)?;
                Expect::NodeClose(ListingNode::Symlink { target: target.into() })
            }
            (Expect::NodeClose(node), b")") => self.close(node),
            (Expect::EntryOrClose, b"entry") => Expect::EntryOpen,
            (Expect::EntryOrClose, b")") => {
                let directory = self.open.pop().expect("entries are expected in an open directory only");
                self.close(ListingNode::Directory { entries: directory.entries })
            }
            (Expect::EntryOpen, b"(") => Expect::NameTag,
            (Expect::NameTag, b"name") => Expect::Name,
            (Expect::Name, name) => {
                self.begin_entry(name)?;
                Expect::NodeTag
            }
            (Expect::NodeTag, b"node") => Expect::NodeOpen,
            (Expect::EntryClose, b")") => Expect::EntryOrClose,
            (expect, _) => return Err(self.unexpected(&expect)),
        })
    }

    fn count_node(&mut self) -> Result<(), NarError> {
        if self.open.len() >= DEPTH_MAX {
            return Err(NarError::TooDeep);
        }
        if self.entries == ENTRIES_MAX {
            return Err(NarError::TooManyEntries { limit: ENTRIES_MAX });
        }
        self.entries += 1;
        Ok(())
    }

    fn count_text(&mut self, text: &[u8]) -> Result<(), NarError> {
        self.text_bytes += text.len() as u64;
        if self.text_bytes > TEXT_BYTES_MAX {
            return Err(NarError::TooMuchText { limit: TEXT_BYTES_MAX });
        }
        Ok(())
    }

    fn begin_entry(&mut self, name: &[u8]) -> Result<(), NarError> {
        let reserved = [&b""[..], b".", b".."].contains(&name);
        if reserved || name.iter().any(|byte| b"/\0".contains(byte)) {
            return Err(NarError::Name { name: name.escape_ascii().to_string() });
        }
        self.count_text(name)?;
        let directory = self.open.last_mut().expect("a name is expected in an open directory only");
        if let Some((previous, _)) = directory.entries.last().filter(|(previous, _)| **previous >= *name) {
            let [name, previous] = [name, previous].map(|name| name.escape_ascii().to_string());
            return Err(NarError::Order { name, previous });
        }
        directory.name = name.into();
        Ok(())
    }

    /// Puts a complete node where it belongs.
    fn close(&mut self, node: ListingNode) -> Expect {
        if let Some(parent) = self.open.last_mut() {
            parent.entries.push((std::mem::take(&mut parent.name), node));
            return Expect::EntryClose;
        }
        self.root = Some(node);
        Expect::Nothing
    }

    fn unexpected(&self, expect: &Expect) -> NarError {
        let expected = match expect {
            Expect::Magic => return NarError::NotANar,
            Expect::NodeOpen | Expect::EntryOpen => "`(`",
            Expect::TypeTag => "`type`",
            Expect::Type => "`regular`, `directory` or `symlink`",
            Expect::ExecutableOrContents => "`executable` or `contents`",
            Expect::ExecutableMark => "an empty mark after `executable`",
            Expect::ContentsTag => "`contents`",
            Expect::Contents { .. } => "a file's contents",
            Expect::TargetTag => "`target`",
            Expect::Target => "a symlink's target",
            Expect::NodeClose(_) | Expect::EntryClose => "`)`",
            Expect::EntryOrClose => "`entry` or `)`",
            Expect::NameTag => "`name`",
            Expect::Name => "a name",
            Expect::NodeTag => "`node`",
            Expect::Nothing => "the end",
        };
        NarError::Unexpected { offset: self.token_offset, expected }
    }
}

/// `count`, or `limit` where that is less.
fn at_most(count: usize, limit: u64) -> usize {
    usize::try_from(limit).map_or(count, |limit| limit.min(count))
}
