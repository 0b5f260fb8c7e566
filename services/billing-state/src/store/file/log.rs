//! `billing-audit.jsonl`: one sealed record a line, appended and never rewritten.
//!
//! `billing-audit.head` beside it holds the last record's sequence and hash: a log that was cut short is in itself
//! intact, and only this gives it away. It is written after the record and not synced by itself, so after a power
//! failure it may lag behind the log; it is never ahead of it.
//!
//! A log that was altered is never written to, so that nothing covers up what was done to it: its tenant's state is served
//! as before, but not changed, until the log is restored from a backup, or the head is removed to accept a shorter one.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use pulse_kernel::OrgId;
use pulse_store::audit::{AuditDraft, AuditRecord, Head, Salt, Verifier, seal};

use super::disk::Disk;
use crate::store::StoreError;

const LOG: &str = "billing-audit.jsonl";
const HEAD: &str = "billing-audit.head";

/// How much is read at first from the end of a log, in bytes: a record is about a tenth of it.
const TAIL: u64 = 16 * 1024;

/// The end of a tenant's audit log.
#[derive(Debug)]
pub(super) struct Log {
    file: PathBuf,
    head_file: PathBuf,
    /// What the file is called in errors.
    name: String,
    exists: bool,
    /// The newest record.
    last: Option<AuditRecord>,
    /// Why nothing may be appended: what is there would be covered up.
    damage: Option<String>,
}

/// What a log ends with, as far as its bytes tell.
enum End {
    Empty,
    Record(Box<AuditRecord>),
    /// A complete line that is no record, and why.
    NotARecord(String),
}

impl Log {
    /// The log of a tenant that is gone: nothing, whatever may still lie there.
    pub(super) fn nothing(dir: &Path, org: &OrgId) -> Self {
        let (file, head_file, name) = (dir.join(LOG), dir.join(HEAD), name_of(org, LOG));
        Self { exists: false, last: None, damage: None, file, head_file, name }
    }

    /// Reads the end of the log in `dir`, and mends what a crash while appending has left there.
    pub(super) fn open(disk: &dyn Disk, dir: &Path, org: &OrgId) -> io::Result<Self> {
        let (file, head_file) = (dir.join(LOG), dir.join(HEAD));
        let head: Option<Head> =
            std::fs::read(&head_file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let name = name_of(org, LOG);
        let mut log = Self { exists: true, last: None, damage: None, file, head_file, name };
        let bytes = match read_tail(&log.file, TAIL) {
            Ok(tail) => tail,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                log.exists = false;
                Tail { start: 0, bytes: Vec::new() }
            }
            Err(error) => return Err(error),
        };
        let (end, good_length, newline_missing) = bytes.end(org);
        match end {
            End::Empty => {}
            End::Record(record) => log.last = Some(*record),
            End::NotARecord(why) => log.damage = Some(format!("its last line is not a record: {why}")),
        }
        log.compare(head);
        if log.damage.is_none() && log.exists {
            if newline_missing {
                disk.append(&log.file, b"\n")?;
            } else if good_length < bytes.length() {
                tracing::warn!(org_id = %org, "dropping an audit record that a crash left unfinished");
                disk.cut(&log.file, good_length)?;
            }
        }
        Ok(log)
    }

    /// Compares the end of the log with the head that is kept apart.
    fn compare(&mut self, head: Option<Head>) {
        let Some(head) = head.filter(|_| self.damage.is_none()) else { return };
        let found = self.last.as_ref().map_or(Head::EMPTY, AuditRecord::head);
        if found.sequence < head.sequence {
            let (found, head) = (found.sequence, head.sequence);
            self.damage = Some(format!("it ends with record {found}, but there was a record {head}"));
        } else if found.sequence == head.sequence && found.hash != head.hash {
            self.damage = Some(format!("record {} is not the one that was written", found.sequence));
        }
    }

    /// The newest record.
    pub(super) fn last(&self) -> Option<&AuditRecord> {
        self.last.as_ref()
    }

    /// How many records there are.
    pub(super) fn revision(&self) -> u64 {
        self.last.as_ref().and_then(|record| u64::try_from(record.sequence).ok()).unwrap_or_default()
    }

    /// Refuses when appending would cover up what was done to the log.
    pub(super) fn check_intact(&self) -> Result<(), StoreError> {
        let Some(damage) = &self.damage else { return Ok(()) };
        let problem = format!("the audit log was altered: {damage}");
        Err(StoreError::Unreadable { place: self.name.clone(), problem, last_known: None })
    }

    /// Whether there is a file yet: its name must be durable before its first record is.
    pub(super) fn exists(&self) -> bool {
        self.exists
    }

    /// Makes the empty file.
    pub(super) fn create(&mut self, disk: &dyn Disk) -> io::Result<()> {
        disk.write(&self.file, b"")?;
        self.exists = true;
        Ok(())
    }

    /// Seals and appends a record.
    pub(super) fn append(&mut self, disk: &dyn Disk, draft: AuditDraft, salt: Salt) -> io::Result<()> {
        let head = self.last.as_ref().map(AuditRecord::head);
        let record = seal(head.as_ref(), draft, salt);
        let mut line = serde_json::to_vec(&record)?;
        line.push(b'\n');
        disk.append(&self.file, &line)?;
        self.last = Some(record);
        Ok(())
    }

    /// Brings the head that is kept apart up to date. It is a help for finding damage and no part of a commit.
    pub(super) fn note_head(&self, disk: &dyn Disk) -> io::Result<()> {
        let Some(head) = self.last.as_ref().map(AuditRecord::head) else { return Ok(()) };
        disk.note(&self.head_file, &serde_json::to_vec(&head)?)
    }

    /// The first record.
    pub(super) fn first(&self, org: &OrgId) -> io::Result<Option<AuditRecord>> {
        let mut first = Vec::new();
        match File::open(&self.file) {
            Ok(file) => BufReader::new(file).read_until(b'\n', &mut first)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(parse(&first, org).ok())
    }

    /// The records with a sequence below `before`, newest first, at most `limit`, after verifying all of them.
    pub(super) fn list(
        &self,
        org: &OrgId,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<AuditRecord>, StoreError> {
        self.check_intact()?;
        let failed = |source| StoreError::Failed { action: format!("read {}", self.file.display()), source };
        let file = match File::open(&self.file) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut verifier = Verifier::default();
        let mut page = std::collections::VecDeque::new();
        for (number, line) in BufReader::new(file).split(b'\n').enumerate() {
            let record = parse(&line.map_err(failed)?, org).map_err(|why| StoreError::Unreadable {
                place: self.name.clone(),
                problem: format!("line {} is not a record: {why}", number + 1),
                last_known: None,
            })?;
            let broken = |source| StoreError::BrokenChain { place: self.name.clone(), source };
            verifier.push(&record).map_err(broken)?;
            if before.is_none_or(|before| record.sequence < before) {
                page.push_front(record);
                page.truncate(limit);
            }
        }
        Ok(page.into())
    }
}

/// The last bytes of a file.
struct Tail {
    /// Where they begin.
    start: u64,
    bytes: Vec<u8>,
}

impl Tail {
    fn length(&self) -> u64 {
        self.start + u64::try_from(self.bytes.len()).unwrap_or_default()
    }

    /// What the log ends with, how long it is up to there, and whether only the line's end is missing.
    ///
    /// Of a line that a crash left behind, either the end is missing, or blocks of it that never reached the disk read
    /// as NUL, which no record holds. Such a line was never acknowledged.
    fn end(&self, org: &OrgId) -> (End, u64, bool) {
        let mut rest = self.bytes.as_slice();
        let length = |rest: &[u8]| self.start + u64::try_from(rest.len()).unwrap_or_default();
        if !rest.is_empty() && !rest.ends_with(b"\n") {
            let begin = rest.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
            if let Ok(record) = parse(&rest[begin..], org) {
                return (End::Record(Box::new(record)), length(rest), true);
            }
            rest = &rest[..begin];
        }
        while let Some(line) = rest.strip_suffix(b"\n") {
            let begin = line.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
            if !line[begin..].contains(&0) {
                let end = match parse(&line[begin..], org) {
                    Ok(record) => End::Record(Box::new(record)),
                    Err(why) => End::NotARecord(why),
                };
                return (end, length(rest), false);
            }
            rest = &rest[..begin];
        }
        if self.start > 0 {
            return (End::NotARecord("it was never written".to_owned()), length(rest), false);
        }
        (End::Empty, length(rest), false)
    }
}

/// Reads at least `least` bytes from the end, and enough to hold a line.
fn read_tail(path: &Path, least: u64) -> io::Result<Tail> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut want = least;
    loop {
        let start = length.saturating_sub(want);
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(start))?;
        file.by_ref().take(length - start).read_to_end(&mut bytes)?;
        // Three line ends hold two whole lines: the last may be unfinished, the one before it then is the end.
        let lines = bytes.split(|b| *b == b'\n').count().saturating_sub(1);
        if start == 0 {
            return Ok(Tail { start, bytes });
        }
        if lines >= 3 {
            let first = bytes.iter().position(|b| *b == b'\n').map_or(0, |at| at + 1);
            let start = start + u64::try_from(first).unwrap_or_default();
            return Ok(Tail { start, bytes: bytes.split_off(first) });
        }
        want *= 4;
    }
}

/// What a tenant's file is called in errors: its place in the data directory.
pub(super) fn name_of(org: &OrgId, file: &str) -> String {
    format!("orgs/{org}/{file}")
}

/// Reads a line as a record of the tenant.
fn parse(line: &[u8], org: &OrgId) -> Result<AuditRecord, String> {
    let record: AuditRecord = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    if record.org_id == *org { Ok(record) } else { Err(format!("it belongs to {}", record.org_id)) }
}
