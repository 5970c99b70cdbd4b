import Glibc

/// What there is of a store, whatever its state: which files are its segments, whose they are, and where the log ended as
/// far as anything tells. Nothing is refused for being damaged; nothing is believed without its checksum.
struct SalvageSource {
  /// A file that holds, or held, a segment.
  struct Part {
    var path: String
    var baseOffset: UInt64
    /// nil if it is damaged; then the name tells the base offset.
    var header: SegmentHeader?
    var fileByteCount: UInt64

    /// The offset that the segment before ends with, as far as is known.
    var previousEndOffset: UInt64 { header?.previousEndOffset ?? baseOffset }
  }

  let directory: String
  let disk: any Disk
  private(set) var store = StoreHeader(storeID: StoreID(first: 0, second: 0), createdMicroseconds: 0)
  /// By base offset.
  private(set) var parts: [Part] = []
  private(set) var clean: CleanEnd?
  /// There is a record of a clean end, readable or not: then nothing was in flight.
  private(set) var wasClosed = false
  private(set) var indexes: [IndexFile] = []
  /// The log ended at this offset or behind it, by `clean`, by index files, and by what the last writer told other
  /// processes.
  private(set) var endOffsetAtLeast: UInt64 = 0
  /// Base offsets of all segments that there were, as far as anything tells; ascending.
  private(set) var knownBases: [UInt64] = []
  private(set) var findings: [Damage] = []
  /// Files with segments that are not taken.
  private(set) var leftOut: [RepairReport.LeftOut] = []
  /// Of ``parts``, if they were read already.
  private var evidence: [SegmentEvidence] = []
  private let checksHistory: Bool
  /// Files of the history that the operator wants to keep.
  private let wanted: SalvageAnchors.Keeping

  /// Where the log was durable, if that is known for certain: nothing behind it is looked at.
  let durableEnd: DurableEnd?

  /// nil when nothing tells which store it is.
  ///
  /// - Parameter checksHistory: all segments are read, so that one of a diverged copy is found whatever its name.
  /// - Throws: ``LogStoreError/repairUndecided(path:histories:)`` if they are, and nothing tells which history is this store's.
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
    try addParts(segmentNames, headers, notice)
    checkClean(notice)
    findEnd(notice)
  }

  /// The bytes of the writer's notice; nil if there is none, or it can't be read.
  private mutating func tail() throws(LogStoreError) -> [UInt8]? {
    do throws(LogStoreError) {
      return try disk.contents(join(directory, FileName.tail), limit: TailNotice.byteCount)
    } catch {
      guard let damage = error.finding else { throw error }
      findings.append(damage)
      return nil
    }
  }

  private mutating func note(_ name: String, _ position: UInt64, _ reason: String) {
    findings.append(Damage(file: join(directory, name), position: position, reason: reason))
  }

  /// Reads a header; what is wrong with it is a finding. nil then, or if it is not there.
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

  /// A segment under a name that is not a segment's: a file system that was mended may have exchanged names.
  private func misnamedSegment(_ name: String) throws(LogStoreError) -> SegmentHeader? {
    let path = join(directory, name)
    // One that is unfinished has no events, and was begun when all before it was durable.
    guard FileName.baseOffset(name, suffix: ".log") == nil,
      try disk.kind(path) == .file,
      let bytes = try? disk.contents(path, limit: SegmentHeader.byteCount),
      let header = try? decode(bytes, of: path, SegmentHeader.init),
      header.baseOffset <= durableEnd?.baseOffset ?? .max
    else { return nil }
    return header
  }

  // MARK: - Whose it is

  private func indexIDs(_ names: [String]) throws(LogStoreError) -> [StoreID] {
    var ids: [StoreID] = []
    for name in names where FileName.indexRange(name) != nil {
      do throws(LogStoreError) {
        // An index with a damaged header names no store here; the damage is reported when the indexes are read.
        if let index = try mapIndex(name).flatMap({ try? IndexHeader($0.bytes) }) { ids.append(index.storeID) }
      } catch .unreadable {
        // Is a finding when the indexes are taken up.
      }
    }
    return ids
  }

  /// What most segments say; between as many the file `store` decides, and then what most of the other files say. Not
  /// that file first: it may be another store's, and so may a segment beside it.
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

  // MARK: - Segments

  private mutating func addParts(
    _ names: [String], _ headers: [String: SegmentHeader], _ notice: TailNotice?
  ) throws(LogStoreError) {
    var candidates: [(part: Part, isNamedSo: Bool)] = []
    let bases = Set(
      names.compactMap { FileName.baseOffset($0, suffix: ".log") }
        + headers.values.flatMap { [$0.baseOffset, $0.previousBaseOffset] }
    ).sorted()
    for name in names {
      let path = join(directory, name)
      let header = headers[name]
      let named = FileName.baseOffset(name, suffix: ".log")
      guard try disk.kind(path) == .file,
        let base = header?.baseOffset ?? frameBase(path, named, bases) ?? named
      else { continue }
      if let header, header.storeID != store.storeID {
        note(name, 16, "the segment belongs to another store")
        leftOut.append(
          RepairReport.LeftOut(
            file: path, offsets: header.baseOffset..<header.baseOffset, events: 0,
            reason: "the segment belongs to another store"))
        continue
      }
      if base != named {
        note(
          name, 32,
          "the segment begins with offset \(base)" + (named.map { ", its name says \($0)" } ?? ", and is not named so"))
      }
      candidates.append(
        (
          Part(path: path, baseOffset: base, header: header, fileByteCount: try disk.open(path, .read).byteCount()),
          base == named
        ))
    }
    candidates.sort { $0.part.baseOffset < $1.part.baseOffset }
    parts = candidates.map(\.part)
    try refuseOtherWanted()
    if checksHistory || isDoubtful { try chooseHistory(candidates, notice) }
    noteMissing()
  }

  /// Refuses a file to keep that is no segment of this store: it decides nothing, and ignoring it would look as if it had.
  private func refuseOtherWanted() throws(LogStoreError) {
    guard let other = wanted.paths.subtracting(parts.map(\.path)).min() else { return }
    throw .repairRefused(
      path: other,
      reason: "this is no segment file of the store, and tells of no history; to keep one name a segment file of it, or"
        + " `clean` or `tail`")
  }

  /// Whether the headers alone tell that not all of the files can be of one history, or that a segment is missing.
  private var isDoubtful: Bool {
    zip(parts, parts.dropFirst()).contains { before, part in
      part.baseOffset == before.baseOffset
        || part.header.map { $0.previousBaseOffset != before.baseOffset } ?? false
    } || findBases().count != parts.count
  }

  /// Keeps the files that are of one history. Reads all of them.
  private mutating func chooseHistory(
    _ candidates: [(part: Part, isNamedSo: Bool)], _ notice: TailNotice?
  ) throws(LogStoreError) {
    var files: [SegmentEvidence] = []
    for (part, isNamedSo) in candidates {
      let (segment, unreadable) = try load(part)
      files.append(
        SegmentEvidence(
          part, isNamedSo: isNamedSo, in: segment, unreadableEnd: unreadable.last?.range.upperBound, clean: clean,
          notice: notice))
    }
    let links = SalvageLinks(try withoutOlderCopies(files, notice), indexes: indexes)
    let choice = SalvageHistory(SalvageAnchors(links, clean: clean, notice: notice, keeping: wanted)).choose()
    if checksHistory {
      let histories = choice.histories
      guard histories.isEmpty else { throw .repairUndecided(path: directory, histories: histories) }
    }
    parts = choice.taken.map(\.part)
    evidence = choice.taken
    for other in choice.leftOut {
      leaveOut(
        other.file.part.path, offsets: other.file.baseOffset..<other.file.endOffset, events: other.file.events,
        reason: "\(other.reason): it is of another history of this store, and is left out\(other.doubt)")
    }
  }

  /// All files but those whose frames are the first ones of another file, and those that were never a segment of the log.
  private func withoutOlderCopies(
    _ files: [SegmentEvidence], _ notice: TailNotice?
  ) throws(LogStoreError) -> [SegmentEvidence] {
    var kept: [SegmentEvidence] = []
    for base in Set(files.map(\.baseOffset)) {
      var newer: [SegmentEvidence] = []
      let same = files.filter { $0.baseOffset == base }
        .sorted { ($0.endPosition, $0.isNamedSo ? 1 : 0) > ($1.endPosition, $1.isNamedSo ? 1 : 0) }
      let named = same.first { $0.isNamedSo }
      for file in same {
        var isDropped = named.map { isUnfinished(file, beside: $0, notice) } ?? false
        for other in newer where !isDropped { isDropped = try isBeginning(file, of: other) }
        if !isDropped { newer.append(file) }
      }
      kept += newer
    }
    return kept
  }

  /// Whether a file was written to replace a segment without events, and the power failed before it was renamed. It holds no
  /// event, and the segment has all its cursors, so nothing is lost with it. False for a file that the operator asks
  /// for, or that a record of the log's end names: then the files have each other's names.
  private func isUnfinished(_ file: SegmentEvidence, beside named: SegmentEvidence, _ notice: TailNotice?) -> Bool {
    guard !file.isNamedSo, file.events == 0, file.endChain != nil, !wanted.paths.contains(file.part.path),
      let header = file.part.header, let other = named.part.header,
      header.previousBaseOffset == other.previousBaseOffset, header.chain == other.chain
    else { return false }
    if let notice, notice.segment == file.headerChecksum { return false }
    return !(clean.map(file.isEnd) ?? false)
  }

  /// Whether a file is an older copy of another: its last frame is in that too, and by its chain all before it.
  private func isBeginning(_ older: SegmentEvidence, of newer: SegmentEvidence) throws(LogStoreError) -> Bool {
    guard let last = older.last else { return true }
    let segment = try load(newer.part).segment
    return FrameHeader(in: segment.bytes, at: last.position, checksumSeed: segment.checksumSeed)?.checksum
      == last.checksum
  }

  private mutating func leaveOut(_ path: String, offsets: Range<UInt64>, events: UInt64, reason: String) {
    leftOut.append(RepairReport.LeftOut(file: path, offsets: offsets, events: events, reason: reason))
    findings.append(Damage(file: path, position: UInt64(SegmentHeader.Field.baseOffset), reason: reason))
  }

  private mutating func noteMissing() {
    var before: Part?
    for part in parts {
      if let previous = part.header?.previousBaseOffset,
        previous != before?.baseOffset ?? SegmentHeader.noPrevious
      {
        if previous == SegmentHeader.noPrevious {
          findings.append(
            Damage(
              file: part.path, position: UInt64(SegmentHeader.Field.previousBaseOffset),
              reason: "a first segment behind another segment"))
        } else {
          note(
            FileName.segment(previous), 0,
            "the segment is missing or out of order: the segment of offset \(part.baseOffset) follows it")
        }
      } else if before == nil, part.baseOffset > 0 {
        note(FileName.segment(0), 0, "the segment is missing")
      }
      before = part
    }
  }

  /// Which segment a file without a sound header is, by its frames, whose checksums cover the base offset: the one that its
  /// name says, or another one whose file has another name now. What most of them say, as some may be another segment's
  /// blocks. One or two checksums a place where a frame may begin.
  ///
  /// - Parameter candidates: base offsets of segments, ascending.
  private func frameBase(_ path: String, _ named: UInt64?, _ candidates: [UInt64]) -> UInt64? {
    guard let bytes = try? disk.contents(path, limit: Self.frameSearchByteCount) else { return nil }
    return bytes.withUnsafeBytes { bytes in
      func byteCount(at position: Int, of base: UInt64) -> Int? {
        FrameHeader(in: bytes, at: position, checksumSeed: ChecksumSeed(storeID: store.storeID, baseOffset: base))?
          .byteCount
      }
      func frame(at position: Int) -> (base: UInt64, byteCount: Int)? {
        if let named, let found = byteCount(at: position, of: named) { return (named, found) }
        // A frame's events are in the last segment that begins no later than they.
        let next = candidates.partitionPoint {
          $0 > bytes.integer(at: position + FrameField.firstOffset, as: UInt64.self)
        }
        guard next > 0, let found = byteCount(at: position, of: candidates[next - 1]) else { return nil }
        return (candidates[next - 1], found)
      }
      var counts: [UInt64: Int] = [:]
      var position = SegmentHeader.byteCount
      while position <= bytes.count - FrameHeader.byteCount {
        if let found = frame(at: position) {
          counts[found.base, default: 0] += 1
          position += found.byteCount
        } else {
          position += 8
        }
      }
      return counts.max { ($0.value, $0.key == named ? 1 : 0) < ($1.value, $1.key == named ? 1 : 0) }?.key
    }
  }

  /// How much of a file without a sound header is searched for what it is.
  private static let frameSearchByteCount = 8 << 20

  /// Pages in a row that the disk can't read.
  struct UnreadableRange {
    var range: Range<Int>
    var damage: Damage
  }

  /// A part's bytes, as far as the disk can read them; zeros for the rest.
  func load(_ part: Part) throws(LogStoreError) -> (segment: Segment, unreadable: [UnreadableRange]) {
    let file = try disk.open(part.path, .read)
    let most = part.header?.fileByteCount ?? UInt64(UInt32.max)
    let byteCount = Int(min(try file.byteCount(), most))
    let header =
      part.header
      ?? SegmentHeader(
        storeID: store.storeID, baseOffset: part.baseOffset, previousBaseOffset: SegmentHeader.noPrevious,
        fileByteCount: UInt64(byteCount), createdMicroseconds: store.createdMicroseconds, chain: 0)
    do throws(LogStoreError) {
      return (Segment(path: part.path, header: header, mapping: try map(file, byteCount: byteCount)), [])
    } catch .unreadable {
      return try loadAround(file, part, header, byteCount)
    }
  }

  /// Throws if the disk can't read all of it.
  private func map(_ file: any File, byteCount: Int) throws(LogStoreError) -> Mapping {
    let piece = UnsafeMutableRawBufferPointer.allocate(byteCount: BackupRun.pieceByteCount, alignment: 4096)
    defer { piece.deallocate() }
    var position = 0
    while position < byteCount {
      let count = try file.read(into: piece, at: UInt64(position))
      // It became shorter meanwhile.
      if count == 0 { break }
      position += count
    }
    return try file.map(byteCount: min(position, byteCount))
  }

  private func loadAround(
    _ file: any File, _ part: Part, _ header: SegmentHeader, _ byteCount: Int
  ) throws(LogStoreError) -> (segment: Segment, unreadable: [UnreadableRange]) {
    let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: max(byteCount, 1), alignment: 4096)
    let mapping = Mapping(bytes: UnsafeRawBufferPointer(rebasing: memory[..<byteCount])) { _ in memory.deallocate() }
    var unreadable: [UnreadableRange] = []
    for position in stride(from: 0, to: byteCount, by: 4096) {
      let page = UnsafeMutableRawBufferPointer(rebasing: memory[position..<min(position + 4096, byteCount)])
      page.initializeMemory(as: UInt8.self, repeating: 0)
      do throws(LogStoreError) {
        _ = try file.read(into: page, at: UInt64(position))
      } catch .unreadable(let damage) {
        page.initializeMemory(as: UInt8.self, repeating: 0)
        let end = position + page.count
        if let last = unreadable.last, last.range.upperBound == position {
          unreadable[unreadable.count - 1].range = last.range.lowerBound..<end
        } else {
          unreadable.append(
            UnreadableRange(
              range: position..<end,
              damage: Damage(file: part.path, position: UInt64(position), reason: damage.reason)))
        }
      }
    }
    return (Segment(path: part.path, header: header, mapping: mapping), unreadable)
  }

  // MARK: - Index files, and the end

  private func mapIndex(_ name: String) throws(LogStoreError) -> Mapping? {
    let path = join(directory, name)
    guard try disk.kind(path) == .file else { return nil }
    let file = try disk.open(path, .read)
    return try map(file, byteCount: Int(clamping: try file.byteCount()))
  }

  private mutating func addIndexes(_ names: [String]) throws(LogStoreError) {
    for name in names {
      guard let range = FileName.indexRange(name) else { continue }
      let path = join(directory, name)
      let mapping: Mapping
      do throws(LogStoreError) {
        guard let mapped = try mapIndex(name) else { continue }
        mapping = mapped
      } catch .unreadable(let damage) {
        // The log has all that is in it.
        findings.append(damage)
        continue
      }
      do throws(Fault) {
        indexes.append(
          try IndexFile(
            mapping, path: path, storeID: store.storeID, baseOffset: range.lowerBound, endOffset: range.upperBound))
      } catch {
        findings.append(Damage(file: path, position: UInt64(error.position), reason: error.reason))
      }
    }
  }

  private func findBases() -> Set<UInt64> {
    var bases = Set(parts.map(\.baseOffset))
    for part in parts {
      if let previous = part.header?.previousBaseOffset, previous != SegmentHeader.noPrevious { bases.insert(previous) }
    }
    for index in indexes { bases.formUnion(index.header.segments.map(\.baseOffset) + [index.endOffset]) }
    if let clean { bases.insert(clean.baseOffset) }
    // What lies within a segment that is there was said of another history.
    for file in evidence { bases = bases.filter { $0 <= file.baseOffset || $0 >= file.endOffset } }
    return bases
  }

  /// A record of the end that a segment goes on behind was not made by its writer, and neither was one of another end than
  /// the one at which the last file ends and that `tail` tells of.
  private mutating func checkClean(_ notice: TailNotice?) {
    guard let found = clean else { return }
    if let last = evidence.last(where: { $0.baseOffset <= found.baseOffset }),
      found.baseOffset == last.baseOffset && found.endOffset < last.endOffset
        || found.baseOffset > last.baseOffset && found.baseOffset < last.endOffset
    {
      note(FileName.clean, 32, "the log goes on behind the end at which this says that it was closed")
      clean = nil
    } else if let notice, let last = evidence.last, last.isWholeEnd(notice), !last.isEnd(found) {
      note(FileName.clean, 32, "the log ends with offset \(last.endOffset), as tail says too; this says otherwise")
      clean = nil
    }
    if let notice, evidence.contains(where: { $0.testimony(on: notice) == .denies }) {
      note(FileName.tail, 12, "it names another segment of offset \(notice.end.baseOffset) than the one that is there")
    }
    dropForeignIndexes(notice)
  }

  /// An index is made only when the next segment is there. So of a log that ends where `clean` says, or `tail` if it says that
  /// the log was closed, none tells of a segment behind the last one.
  private mutating func dropForeignIndexes(_ notice: TailNotice?) {
    guard let last = evidence.last else { return }
    let isClosed = clean.map(last.isEnd) ?? false
    let wasClosed = notice.map { $0.state == .closed && last.isWholeEnd($0) } ?? false
    guard isClosed || wasClosed else { return }
    for index in indexes where index.endOffset > last.baseOffset {
      findings.append(
        Damage(
          file: index.path, position: UInt64(IndexLayout.Field.endOffset),
          reason: "it tells of a segment behind the end of the log"))
    }
    indexes.removeAll { $0.endOffset > last.baseOffset }
  }

  private mutating func findEnd(_ notice: TailNotice?) {
    if let durableEnd {
      indexes.removeAll { $0.endOffset > durableEnd.baseOffset }
      clean = nil
      knownBases = findBases().union([durableEnd.baseOffset]).sorted()
      endOffsetAtLeast = durableEnd.offset
      return
    }
    let lastBase = parts.last?.baseOffset ?? 0
    if let last = indexes.map(\.endOffset).max(), last > lastBase {
      note(FileName.segment(last), 0, "the segment is missing: an index that was made after it had begun is there")
    }
    if let found = clean, found.baseOffset < lastBase {
      note(FileName.clean, 40, "the log goes on behind the segment in which this says that it was closed")
      clean = nil
    } else if let found = clean, found.baseOffset > lastBase, indexes.allSatisfy({ $0.endOffset < found.baseOffset }) {
      note(FileName.segment(found.baseOffset), 0, "the segment is missing: the log was closed in it")
    }
    knownBases = findBases().sorted()
    endOffsetAtLeast = max(clean?.endOffset ?? 0, indexes.map(\.endOffset).max() ?? 0)
    // It does not say of which store it is, so it counts only if it names a segment that is known from elsewhere, or one
    // behind the last: then that one is missing.
    if let notice,
      knownBases.contains(notice.end.baseOffset) || clean == nil && notice.end.baseOffset > knownBases.last ?? 0
    {
      if !knownBases.contains(notice.end.baseOffset) {
        note(
          FileName.segment(notice.end.baseOffset), 0, "the segment is missing: its writer told others that it was there"
        )
        knownBases.append(notice.end.baseOffset)
      }
      endOffsetAtLeast = max(endOffsetAtLeast, notice.end.offset)
    }
  }
}
