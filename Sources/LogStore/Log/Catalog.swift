/// The content of a store's directory, read and checked before the log itself is.
struct Catalog: Sendable {
  var directory: String
  var storeID: StoreID
  /// In order; never empty.
  var segments: [SegmentHeader]
  var clean: CleanEnd?
  /// Damage of finished segments, where it is no reason to refuse the store.
  var damagedFiles: [Damage] = []

  var lastSegment: SegmentHeader {
    // Proof: the only initialiser throws if there is no segment.
    segments[segments.count - 1]
  }
  var cleanPath: String { join(directory, FileName.clean) }

  func path(of segment: SegmentHeader) -> String { join(directory, FileName.segment(segment.baseOffset)) }

  /// Reads the file that makes a directory a store.
  static func readStore(_ directory: String, disk: any Disk) throws(LogStoreError) -> StoreHeader {
    guard try disk.exists(directory) else { throw .notAStore(directory: directory) }
    let path = join(directory, FileName.store)
    guard let bytes = try wholeFile(path, byteCount: StoreHeader.byteCount, disk: disk) else {
      guard try isNothingLost(directory, disk: disk) else { throw storeMissing(directory) }
      throw .notAStore(directory: directory)
    }
    return try decode(bytes, of: path, StoreHeader.init)
  }

  /// The error for a directory that has segments but no file `store`.
  static func storeMissing(_ directory: String) -> LogStoreError {
    .damaged(
      Damage(
        file: join(directory, FileName.store), position: 0,
        reason: "the file is missing, though the directory holds segments"))
  }

  /// Whether a directory without the file `store` holds nothing that was ever acknowledged: no segment, or only the first
  /// segment as an interrupted creation of a store leaves it, with an empty snapshot of cursors and zeros to its end.
  ///
  /// Reads all of that segment, in this case only.
  static func isNothingLost(_ directory: String, disk: any Disk) throws(LogStoreError) -> Bool {
    let names = try disk.list(directory)
    let bases = names.compactMap { FileName.baseOffset($0, suffix: ".log") }
    if bases.isEmpty { return true }
    // A store that was closed, or that has an index or events, was created completely.
    let wasFinished = names.contains { $0 == FileName.clean || FileName.indexRange($0) != nil }
    guard bases == [0], !wasFinished else { return false }
    if let bytes = try disk.contents(join(directory, FileName.tail), limit: TailNotice.byteCount),
      let notice = bytes.withUnsafeBytes({ TailNotice($0) }), notice.end.offset > 0
    {
      return false
    }
    let path = join(directory, FileName.segment(0))
    let file = try disk.open(path, .read)
    let header: SegmentHeader
    do throws(LogStoreError) {
      header = try decode(try file.read(count: SegmentHeader.byteCount, at: 0), of: path, SegmentHeader.init)
    } catch .damaged {
      return false
    }
    guard header.baseOffset == 0, header.previousBaseOffset == SegmentHeader.noPrevious,
      try file.byteCount() == header.fileByteCount
    else { return false }
    let segment = Segment(path: path, header: header, mapping: try file.map(byteCount: Int(header.fileByteCount)))
    let isUnused = segment.isUnused
    // Bytes that can't be read look unused.
    try segment.checkReadable(0..<segment.bytes.count, since: 0)
    return isUnused
  }

  /// Reads the small files and every segment's first page. Costs one `open` and one page for each segment.
  ///
  /// - Parameter lastBase: beside a running writer, the base offset of a segment that the writer had begun before this
  ///   call. Later segments are ignored, since a listing may show some of them without the ones in between.
  /// - Parameter servesDamaged: does not refuse the store for finished segments that are missing, short or without a sound
  ///   header. Their names and the headers behind them tell where they begin.
  static func read(
    _ directory: String, disk: any Disk, upTo lastBase: UInt64? = nil, servesDamaged: Bool = false
  ) throws(LogStoreError) -> Catalog {
    let store = try readStore(directory, disk: disk)
    let names = try disk.list(directory)
    let bases = names.compactMap { FileName.baseOffset($0, suffix: ".log") }.filter { $0 <= lastBase ?? .max }.sorted()
    var chain = SegmentChain(directory: directory, storeID: store.storeID)
    for (index, base) in bases.enumerated() {
      let isFinished = index < bases.count - 1
      let path = join(directory, FileName.segment(base))
      let header: SegmentHeader
      do throws(LogStoreError) {
        header = try readSegment(path, base, isFinished: isFinished, storeID: store.storeID, disk: disk)
      } catch {
        guard servesDamaged, error.isOfTheFile, isFinished else { throw error }
        chain.addUnreadable(base, error)
        continue
      }
      if servesDamaged, header.previousBaseOffset != chain.expectedPrevious, header.previousBaseOffset < base {
        chain.addMissing(before: header, try indexedBases(names, directory, disk: disk))
      }
      try chain.add(header)
    }
    guard let last = chain.headers.last else {
      throw .damaged(
        Damage(
          file: join(directory, FileName.segment(0)), position: 0,
          reason: "the file is missing: the store has no segment at all"))
    }
    if lastBase == nil,
      names.contains(where: { FileName.indexRange($0).map { $0.upperBound > last.baseOffset } ?? false })
    {
      throw .damaged(
        Damage(
          file: join(directory, FileName.segment(last.baseOffset)), position: last.fileByteCount,
          reason: "the segment after this one is missing: an index that was made after it had begun is there"))
    }

    var catalog = Catalog(directory: directory, storeID: store.storeID, segments: chain.headers, clean: nil)
    catalog.damagedFiles = chain.damagedFiles
    if let bytes = try wholeFile(catalog.cleanPath, byteCount: CleanEnd.byteCount, disk: disk) {
      let clean = try decode(bytes, of: catalog.cleanPath, CleanEnd.init)
      guard clean.storeID == store.storeID else {
        throw .damaged(
          Damage(
            file: catalog.cleanPath, position: UInt64(EnvelopeField.storeID),
            reason: "the file belongs to another store"))
      }
      catalog.clean = clean
    }
    return catalog
  }

  /// Reads a segment's first page, and checks that a finished segment has all its bytes.
  private static func readSegment(
    _ path: String, _ base: UInt64, isFinished: Bool, storeID: StoreID, disk: any Disk
  ) throws(LogStoreError) -> SegmentHeader {
    let file = try disk.open(path, .read)
    let header = try Segment.readHeader(of: file, baseOffset: base, storeID: storeID)
    let byteCount = try file.byteCount()
    if byteCount < header.fileByteCount, isFinished {
      throw .damaged(
        Damage(
          file: path, position: byteCount,
          reason: "the file ends here, its header says after \(header.fileByteCount) bytes"))
    }
    return header
  }

  /// The base offsets of segments that index files list.
  private static func indexedBases(
    _ names: [String], _ directory: String, disk: any Disk
  ) throws(LogStoreError) -> Set<UInt64> {
    var bases: Set<UInt64> = []
    for name in names where FileName.indexRange(name) != nil {
      let file = try disk.open(join(directory, name), .read)
      let mapping = try file.map(byteCount: Int(clamping: try file.byteCount()))
      // A damaged index file is ignored here, and reported when it is used.
      if let header = try? IndexHeader(mapping.bytes) { bases.formUnion(header.segments.map(\.baseOffset)) }
    }
    return bases
  }

  /// All of a file; nil if it does not exist. Throws if the file is longer than it should be.
  private static func wholeFile(
    _ path: String, byteCount: Int, disk: any Disk
  ) throws(LogStoreError) -> [UInt8]? {
    let bytes = try disk.contents(path, limit: byteCount + 1)
    guard bytes.map({ $0.count <= byteCount }) ?? true else {
      throw .damaged(
        Damage(file: path, position: UInt64(byteCount), reason: "the file should end here, it goes on"))
    }
    return bytes
  }
}

/// The segments of a directory, in order, checked to follow one another.
private struct SegmentChain {
  let directory: String
  let storeID: StoreID
  private(set) var headers: [SegmentHeader] = []
  private(set) var damagedFiles: [Damage] = []
  /// The previous base offset that the next segment's header must have.
  private(set) var expectedPrevious = SegmentHeader.noPrevious

  init(directory: String, storeID: StoreID) {
    self.directory = directory
    self.storeID = storeID
  }

  /// Adds a segment, which must follow the last one.
  mutating func add(_ header: SegmentHeader) throws(LogStoreError) {
    let base = header.baseOffset
    let path = path(of: base)
    guard header.previousBaseOffset == expectedPrevious else { throw .damaged(missing(before: header, path)) }
    guard !headers.isEmpty || base == 0 else {
      throw .damaged(
        Damage(
          file: path, position: UInt64(SegmentHeader.Field.baseOffset),
          reason: "the first segment begins with offset \(base), a log with offset 0"))
    }
    if let gap = header.gap, headers.isEmpty || gap.lowerBound < expectedPrevious {
      throw .damaged(
        Damage(
          file: path, position: UInt64(SegmentHeader.Field.gapStart),
          reason: "a gap from offset \(gap.lowerBound) on, inside another segment"))
    }
    expectedPrevious = base
    headers.append(header)
  }

  /// Adds a finished segment whose header or length is wrong.
  mutating func addUnreadable(_ base: UInt64, _ error: LogStoreError) {
    if headers.isEmpty, base > 0 { addSubstitute(0) }
    addSubstitute(base)
    damagedFiles.append(error.finding ?? Damage(file: path(of: base), position: 0, reason: error.description))
  }

  /// Adds the missing segments between the last one and this one: those that index files list, and the one that the header
  /// names.
  mutating func addMissing(before header: SegmentHeader, _ indexedBases: Set<UInt64>) {
    for missing in indexedBases.union([0, header.previousBaseOffset]).sorted()
    where missing < header.baseOffset && headers.last.map({ $0.baseOffset < missing }) ?? true {
      addSubstitute(missing)
      damagedFiles.append(Damage(file: path(of: missing), position: 0, reason: "the file is missing"))
    }
  }

  /// Adds a substitute for the header of a finished segment that can't be read.
  private mutating func addSubstitute(_ base: UInt64) {
    headers.append(
      SegmentHeader(
        storeID: storeID, baseOffset: base, previousBaseOffset: headers.last?.baseOffset ?? SegmentHeader.noPrevious,
        fileByteCount: 0, createdMicroseconds: 0, chain: 0))
    expectedPrevious = base
  }

  private func path(of base: UInt64) -> String { join(directory, FileName.segment(base)) }

  private func missing(before header: SegmentHeader, _ path: String) -> Damage {
    if header.previousBaseOffset == SegmentHeader.noPrevious {
      return Damage(
        file: path, position: UInt64(SegmentHeader.Field.previousBaseOffset),
        reason: "a first segment behind another segment")
    }
    return Damage(
      file: join(directory, FileName.segment(header.previousBaseOffset)), position: 0,
      reason: "the segment is missing or out of order: the segment of offset \(header.baseOffset) follows it")
  }
}
