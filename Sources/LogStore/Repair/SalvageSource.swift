import Glibc

/// What exists of a store, whatever its state: which files are its segments, which store they belong to, and where the log
/// ended as far as anything tells. Nothing is refused because it is damaged; nothing is believed without its checksum.
struct SalvageSource {
  /// A file that holds, or held, a segment.
  struct Part {
    var path: String
    var baseOffset: UInt64
    /// nil if it is damaged; then the file name gives the base offset.
    var header: SegmentHeader?
    var fileByteCount: UInt64

    /// The offset at which the previous segment ends, as far as is known.
    var previousEndOffset: UInt64 { header?.previousEndOffset ?? baseOffset }
  }

  let directory: String
  let disk: any Disk
  var store = StoreHeader(storeID: StoreID(first: 0, second: 0), createdMicroseconds: 0)
  /// By base offset.
  var parts: [Part] = []
  var clean: CleanEnd?
  /// There is a clean mark, readable or not: then nothing was in flight.
  var wasClosed = false
  var indexes: [IndexFile] = []
  /// The log ended at this offset or behind it, according to `clean`, the index files and what the last writer published in
  /// `tail`.
  var endOffsetAtLeast: UInt64 = 0
  /// Base offsets of all segments that ever existed, as far as anything tells; ascending.
  var knownBases: [UInt64] = []
  var findings: [Damage] = []
  /// Segment files that are left out.
  var leftOut: [RepairReport.LeftOut] = []
  /// Evidence for ``parts``, if they were read already.
  var evidence: [SegmentEvidence] = []
  let checksHistory: Bool
  /// The files of the history that the operator wants to keep.
  let wanted: SalvageAnchors.Keeping

  /// Where the log is durable, if that is known for certain: nothing behind it is considered.
  let durableEnd: DurableEnd?

  /// nil if nothing tells which store it is.
  ///
  /// - Parameter checksHistory: all segments are read, so that a segment of a diverged copy is found whatever its name.
  /// - Throws: ``LogStoreError/repairUndecided(path:histories:)`` if all segments are read and nothing tells which history
  ///   is this store's.
  init?(
    _ directory: String, disk: any Disk, upTo durableEnd: DurableEnd? = nil, checksHistory: Bool = false,
    keeping wanted: SalvageAnchors.Keeping = SalvageAnchors.Keeping()
  ) throws(LogStoreError) {
    self.checksHistory = checksHistory
    self.wanted = wanted
    self.durableEnd = durableEnd
    self.directory = directory
    self.disk = disk
    guard try disk.kind(directory) == .directory else { throw .notAStore(directory: directory) }
    let names = try disk.list(directory).sorted()
    var segmentNames = names.filter { name in
      FileName.baseOffset(name, suffix: ".log").map { $0 <= durableEnd?.baseOffset ?? .max } ?? false
    }
    guard !segmentNames.isEmpty || names.contains(FileName.store) else { throw .notAStore(directory: directory) }
    var headers: [String: SegmentHeader] = [:]
    for name in segmentNames {
      headers[name] = try contents(name, SegmentHeader.byteCount, SegmentHeader.init)
    }
    for name in names where !segmentNames.contains(name) {
      guard let header = try misnamedSegment(name) else { continue }
      segmentNames.append(name)
      headers[name] = header
    }
    let storeFile = try contents(FileName.store, StoreHeader.byteCount, StoreHeader.init)
    if storeFile == nil, try !disk.exists(join(directory, FileName.store)) {
      note(FileName.store, 0, "the file is missing")
    }
    clean = try contents(FileName.clean, CleanEnd.byteCount, CleanEnd.init)
    wasClosed = try disk.exists(join(directory, FileName.clean))
    guard let storeID = storeID(storeFile, headers, try indexIDs(names)) else { return nil }
    store = StoreHeader(
      storeID: storeID,
      createdMicroseconds: storeFile?.storeID == storeID
        ? storeFile?.createdMicroseconds ?? 0
        : headers.values.filter { $0.storeID == storeID }.map(\.createdMicroseconds).min() ?? disk.now())
    if let found = storeFile, found.storeID != storeID { note(FileName.store, 16, "the file belongs to another store") }
    if let found = clean, found.storeID != storeID {
      note(FileName.clean, 16, "the file belongs to another store")
      clean = nil
    }
    try addIndexes(names)
    let notice = try tail().flatMap { $0.withUnsafeBytes { TailNotice($0) } }
    for name in names where !segmentNames.contains(name) {
      if try mayHoldFrames(name) { segmentNames.append(name) }
    }
    try addParts(segmentNames, headers, notice)
    checkClean(notice)
    findEnd(notice)
  }

  /// The bytes of `tail`; nil if it is missing or can't be read.
  private mutating func tail() throws(LogStoreError) -> [UInt8]? {
    do throws(LogStoreError) {
      return try disk.contents(join(directory, FileName.tail), limit: TailNotice.byteCount)
    } catch {
      guard let damage = error.finding else { throw error }
      findings.append(damage)
      return nil
    }
  }

  mutating func note(_ name: String, _ position: UInt64, _ reason: String) {
    findings.append(Damage(file: join(directory, name), position: position, reason: reason))
  }

  /// Reads a header. A fault becomes a finding. Returns nil after a fault, or if the file is missing.
  private mutating func contents<Value>(
    _ name: String, _ byteCount: Int, _ read: (UnsafeRawBufferPointer) throws(HeaderFault) -> Value
  ) throws(LogStoreError) -> Value? {
    let path = join(directory, name)
    guard try disk.kind(path) == .file else { return nil }
    do throws(LogStoreError) {
      guard let bytes = try disk.contents(path, limit: byteCount) else { return nil }
      return try decode(bytes, of: path, read)
    } catch {
      guard let damage = error.finding else { throw error }
      findings.append(damage)
    }
    return nil
  }

  /// The header of a segment under another kind of name: a repaired file system may have exchanged names.
  private func misnamedSegment(_ name: String) throws(LogStoreError) -> SegmentHeader? {
    let path = join(directory, name)
    // An unfinished segment has no events, and was begun when everything before it was durable.
    guard FileName.baseOffset(name, suffix: ".log") == nil,
      try disk.kind(path) == .file,
      let bytes = try? disk.contents(path, limit: SegmentHeader.byteCount),
      let header = try? decode(bytes, of: path, SegmentHeader.init),
      header.baseOffset <= durableEnd?.baseOffset ?? .max
    else { return nil }
    return header
  }

  /// Whether a file under another kind of name, without a segment's header, is worth a search for frames: it is no sound
  /// index file, and long enough for one frame.
  private func mayHoldFrames(_ name: String) throws(LogStoreError) -> Bool {
    let path = join(directory, name)
    guard FileName.baseOffset(name, suffix: ".log") == nil, !indexes.contains(where: { $0.path == path }),
      try disk.kind(path) == .file
    else { return false }
    return try disk.open(path, .read).byteCount() >= UInt64(SegmentHeader.byteCount + FrameHeader.byteCount)
  }

  // MARK: - Whose it is

  private func indexIDs(_ names: [String]) throws(LogStoreError) -> [StoreID] {
    var ids: [StoreID] = []
    for name in names where FileName.indexRange(name) != nil {
      do throws(LogStoreError) {
        // An index with a damaged header names no store here. Its damage is reported when the indexes are read.
        if let index = try mapIndex(name).flatMap({ try? IndexHeader($0.bytes) }) { ids.append(index.storeID) }
      } catch .unreadable {
        // Reported when the indexes are read.
      }
    }
    return ids
  }

  /// The store id that most segments have. In a tie the file `store` decides, then most of the other files. `store` does
  /// not come first: it may belong to another store, and so may a segment beside it.
  private func storeID(
    _ storeFile: StoreHeader?, _ headers: [String: SegmentHeader], _ indexIDs: [StoreID]
  ) -> StoreID? {
    var votes: [StoreID: (segments: Int, storeFile: Int, others: Int)] = [:]
    for header in headers.values { votes[header.storeID, default: (0, 0, 0)].segments += 1 }
    if let storeFile { votes[storeFile.storeID, default: (0, 0, 0)].storeFile += 1 }
    if let clean { votes[clean.storeID, default: (0, 0, 0)].others += 1 }
    for id in indexIDs { votes[id, default: (0, 0, 0)].others += 1 }
    return votes.max { $0.value < $1.value }?.key
  }
}
