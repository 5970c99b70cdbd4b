import Glibc

// The index files of a store: finding, adding and removing them.

extension SegmentSet {
  /// The current snapshot, including the index files.
  @inline(__always)
  func current() throws(LogStoreError) -> Snapshot {
    let (snapshot, isListed) = state.withLock { ($0.snapshot, $0.isListed) }
    return isListed ? snapshot : try listForReading()
  }

  private func listForReading() throws(LogStoreError) -> Snapshot {
    let listing = try list()
    if !listing.useless.isEmpty || listing.snapshot.sources.contains(where: { $0.kind == .missing }) {
      notifyMissingIndex()
    }
    return listing.snapshot
  }

  struct Listing {
    var snapshot: Snapshot
    /// Names of index files that are useless: inside larger ones, of segments that don't exist, or unsound and replaced by
    /// others.
    var useless: [String] = []
    /// Names of index files that are damaged or can't be read, and that no sound files replace. They stay until then: an
    /// error of the disk may pass, and only they tell what is lost in a damaged segment.
    var suspects: [String] = []
  }

  /// Lists the directory and opens the sound index files, the larger ones first.
  func list() throws(LogStoreError) -> Listing {
    var attempts = 0
    while true {
      attempts += 1
      let (known, generation, distrusted) = state.withLock { ($0.snapshot, $0.generation, $0.distrusted) }
      let names = try disk.list(directory)
      var listing = Listing(snapshot: known)
      var ranges: [Range<UInt64>] = []
      var suspects: [Range<UInt64>] = []
      for name in names where name.hasSuffix(FileName.indexSuffix) {
        guard let range = FileName.indexRange(name), let first = known.ordinal(of: range.lowerBound),
          let last = known.ordinal(of: range.upperBound), first < last
        else {
          listing.useless.append(name)
          continue
        }
        if distrusted.contains(join(directory, name)) { suspects.append(range) } else { ranges.append(range) }
      }
      ranges.sort { ($0.lowerBound, $1.upperBound) < ($1.lowerBound, $0.upperBound) }
      var files: [IndexFile] = []
      var isGone = false
      for range in ranges {
        if let last = files.last, range.lowerBound < last.endOffset {
          listing.useless.append(FileName.index(range))
          continue
        }
        if let file = known.files.first(where: { $0.baseOffset..<$0.endOffset == range }) {
          files.append(file)
          continue
        }
        switch try openIndex(range, known) {
        case .sound(let file): files.append(file)
        case .damaged: suspects.append(range)
        case .gone: isGone = true
        }
      }
      for range in suspects {
        let name = FileName.index(range)
        if Self.covers(files, range) { listing.useless.append(name) } else { listing.suspects.append(name) }
      }
      // The writer has merged an index file meanwhile; the merged file is there.
      if isGone, attempts < Self.listingAttempts { continue }
      let taken = state.withLock { state -> Snapshot? in
        guard state.generation == generation else { return nil }
        state.snapshot = state.snapshot.with(files: files)
        state.isListed = true
        let paths = Set(names.map { join(directory, $0) })
        state.distrusted.formIntersection(paths)
        return state.snapshot
      }
      guard let taken else { continue }
      listing.snapshot = taken
      return listing
    }
  }

  /// - Parameter files: in order, none inside another.
  private static func covers(_ files: [IndexFile], _ range: Range<UInt64>) -> Bool {
    var covered = range.lowerBound
    for file in files where file.baseOffset <= covered { covered = max(covered, file.endOffset) }
    return covered >= range.upperBound
  }

  private enum Opened {
    case sound(IndexFile)
    case damaged
    case gone
  }

  private func openIndex(_ range: Range<UInt64>, _ snapshot: Snapshot) throws(LogStoreError) -> Opened {
    let path = join(directory, FileName.index(range))
    let mapping: Mapping
    do throws(LogStoreError) {
      let file = try disk.open(path, .read)
      mapping = try file.map(byteCount: Int(clamping: try file.byteCount()))
    } catch .inputOutput(_, _, ENOENT) {
      return .gone
    } catch  where error.finding != nil {
      return .damaged
    }
    mapping.expectRandomAccess()
    // The only error is a fault in the header, and `damaged` says so.
    guard
      let index = try? IndexFile(
        mapping, path: path, storeID: storeID, baseOffset: range.lowerBound, endOffset: range.upperBound),
      index.header.segments.map(\.baseOffset) == snapshot.bases.filter({ range.contains($0) })
    else { return .damaged }
    // The index belongs to the content that the next segment continues.
    if let chain = try chain(before: range.upperBound).value, chain != index.header.segments.last?.chain {
      return .damaged
    }
    return .sound(index)
  }

  /// The number of bytes of the index files that are in use.
  func indexByteCount() throws(LogStoreError) -> UInt64 {
    try current().files.reduce(0) { $0 + UInt64($1.bytes.count) }
  }

  /// Adds a durable index file, which replaces everything that it covers.
  func install(_ file: IndexFile) {
    state.withLock { state in
      let old = state.snapshot
      let range = file.baseOffset..<file.endOffset
      state.snapshot = old.with(
        unsealed: old.unsealed.filter { !range.contains($0.segment.baseOffset) },
        files: old.files.filter { !range.contains($0.baseOffset) } + [file])
      state.generation += 1
      for segment in file.header.segments { state.built.forget(segment.baseOffset) }
      state.distrusted.remove(file.path)
    }
  }

  /// Drops all index files, which were removed from the directory.
  func forgetIndexes() {
    state.withLock { state in
      state.snapshot = state.snapshot.with(files: [])
      state.generation += 1
      state.isListed = false
    }
  }

  /// Drops the in-memory index of a segment whose index file can't be written, since memory is bounded.
  func discardIndex(of baseOffset: UInt64) {
    state.withLock { state in
      state.snapshot = state.snapshot.with(
        unsealed: state.snapshot.unsealed.filter { $0.segment.baseOffset != baseOffset })
    }
  }

  /// Drops an index file that was wrong. If it led to a wrong record in a segment, this first checks that the log is sound
  /// there; otherwise it throws the damage, and the file stays.
  func distrust(_ file: IndexFile, _ fault: Fault, segment: Int?) throws(LogStoreError) {
    if file.isBuilt { throw file.damage(fault) }
    if let segment { try checkLog(file.header.segments[segment].baseOffset) }
    state.withLock { state in
      guard state.snapshot.files.contains(where: { $0 === file }) else { return }
      state.snapshot = state.snapshot.with(files: state.snapshot.files.filter { $0 !== file })
      state.distrusted.insert(file.path)
      state.generation += 1
      // Smaller index files inside it may still be in the directory.
      state.isListed = false
    }
    notifyMissingIndex()
  }

  func notifyMissingIndex() {
    missing.withLock { $0 }?()
  }
}
