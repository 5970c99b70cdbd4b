/// Builds and merges index files. Used only in the process that holds the writer's lock, by one thread.
final class IndexBuilder {
  let segments: SegmentSet
  let disk: any Disk
  /// Segments whose index could not be built, which are not tried again at once. The same for files that could not be
  /// merged.
  private var failedSegments: Set<UInt64> = []
  private var mergeFailed = false
  /// Unsound index files wait to be replaced.
  private var hasSuspects = false

  init(segments: SegmentSet, disk: any Disk) {
    self.segments = segments
    self.disk = disk
  }

  /// Whether a step failed and was left undone.
  var hasFailed: Bool { mergeFailed || !failedSegments.isEmpty }

  /// Allows another try of what failed.
  func forgetFailures() {
    failedSegments = []
    mergeFailed = false
  }

  /// Makes the index file of a finished segment from its index in memory. Returns the file's length.
  ///
  /// The segment may be damaged or truncated by now. With the index file, only the lost events are refused. Without one,
  /// nothing could be said about any stream that has no event in a later segment.
  @discardableResult
  func seal(_ index: ActiveIndex, end: FrameExpectation) throws(LogStoreError) -> Int {
    // Taken under the lock and used without it: readers may use the index meanwhile.
    let input = index.state.withLock { $0.sealingInput() }
    do throws(IndexFailure) {
      return try write(index.segment.baseOffset..<end.offset) { output throws(IndexFailure) in
        try IndexEncoding.encode(input, of: index.segment, end: end, to: output)
      }
    } catch {
      throw Self.error(error)
    }
  }

  /// Makes the index file of a finished segment from the segment alone. Returns the file's length.
  @discardableResult
  func build(_ baseOffset: UInt64) throws(LogStoreError) -> Int {
    let (index, end) = try segments.readThrough(try segments.segmentToScan(baseOffset))
    // What was just read may be zeros that stand for unreadable bytes.
    try index.segment.checkReadable(index.segment.start.position..<end.position, since: 0)
    let byteCount = try seal(index, end: end)
    // A file of several segments may have waited for this one.
    if hasSuspects { try clean() }
    return byteCount
  }

  /// Removes useless index files, and returns what is left.
  @discardableResult
  func clean() throws(LogStoreError) -> Snapshot {
    let listing = try segments.list()
    for name in listing.useless { try disk.remove(join(segments.directory, name)) }
    hasSuspects = !listing.suspects.isEmpty
    return listing.snapshot
  }

  /// The next segment to index, or the next files to merge; nil if there is nothing to do.
  func nextStep() throws(LogStoreError) -> Step? {
    let snapshot = try segments.current()
    let missing = snapshot.sources.last { source in
      source.kind == .missing && !failedSegments.contains(snapshot.bases[source.ordinal])
    }
    if let missing { return .build(snapshot.bases[missing.ordinal]) }
    guard !mergeFailed else { return nil }
    for run in snapshot.fileRuns {
      if let range = MergePlan.next(run.map(\.segmentCount)) { return .merge(Array(run[range])) }
    }
    return nil
  }

  enum Step {
    case build(UInt64)
    case merge([IndexFile])

    /// Segments whose indexes are read and written.
    var segmentCount: Int {
      switch self {
      case .build: 1
      case .merge(let files): files.reduce(0) { $0 + $1.segmentCount }
      }
    }
  }

  /// Takes one step.
  ///
  /// - Parameter between: called from time to time; may throw to abandon the step.
  func perform(
    _ step: Step, between: @escaping () throws(IndexFailure) -> Void = {}
  ) throws(IndexFailure) {
    switch step {
    case .build(let baseOffset):
      do throws(LogStoreError) {
        try build(baseOffset)
      } catch {
        failedSegments.insert(baseOffset)
        throw .log(error)
      }
    case .merge(let files):
      do throws(IndexFailure) {
        try merge(files, between: between)
      } catch {
        switch error {
        case .index(let file, let fault, let segment):
          // The file is taken out of use, and removed once its segments have other files.
          do throws(LogStoreError) {
            try segments.distrust(file, fault, segment: segment)
            try clean()
          } catch {
            mergeFailed = true
            throw .log(error)
          }
        case .stopped: throw error
        case .log, .sharedKey:
          mergeFailed = true
          throw error
        }
      }
    }
  }

  /// Merges files as far as they should be.
  func mergeAll() throws(LogStoreError) {
    while case .merge(let files) = try nextStep() {
      do throws(IndexFailure) {
        try merge(files, between: {})
      } catch {
        throw Self.error(error)
      }
    }
  }

  private func merge(
    _ files: [IndexFile], between: @escaping () throws(IndexFailure) -> Void
  ) throws(IndexFailure) {
    let range = files[0].baseOffset..<files[files.count - 1].endOffset
    _ = try write(range, between: between) { output throws(IndexFailure) in
      let byteCount = try IndexMerge.merge(files, to: output)
      // Nothing came from a page that became unreadable after it was checked.
      for file in files where file.hasFaults {
        throw IndexFailure.index(file, Fault(position: 0, reason: "the index can't be read"), segment: nil)
      }
      return byteCount
    }
    // Only now that the new file is durable under its name. After a crash the next writer removes what is left of them.
    do throws(LogStoreError) {
      for file in files { try disk.remove(file.path) }
    } catch {
      throw .log(error)
    }
  }

  /// Writes a file aside, makes it durable under its name, and installs it.
  private func write(
    _ range: Range<UInt64>, between: @escaping () throws(IndexFailure) -> Void = {},
    _ fill: (IndexOutput) throws(IndexFailure) -> Int
  ) throws(IndexFailure) -> Int {
    let path = join(segments.directory, FileName.index(range))
    let aside = path + FileName.aside
    let file = try onDisk { () throws(LogStoreError) in try disk.open(aside, .create) }
    let byteCount: Int
    do throws(IndexFailure) {
      byteCount = try fill(IndexOutput(file, between: between))
    } catch {
      // If the disk can't remove it either, the next writer does.
      try? disk.remove(aside)
      throw error
    }
    let mapping = try onDisk { () throws(LogStoreError) in
      let mapping = try file.map(byteCount: byteCount)
      mapping.expectRandomAccess()
      try disk.rename(aside, to: path)
      try disk.syncDirectory(segments.directory)
      return mapping
    }
    do throws(Fault) {
      segments.install(
        try IndexFile(
          mapping, path: path, storeID: segments.storeID, baseOffset: range.lowerBound, endOffset: range.upperBound))
    } catch {
      let fault = mapping.explained(error)
      guard mapping.faultCount > 0 else {
        preconditionFailure("an index that was just made is not sound: \(fault.reason)")
      }
      throw .log(.unreadable(Damage(file: path, position: UInt64(fault.position), reason: fault.reason)))
    }
    return byteCount
  }

  private func onDisk<Value>(_ body: () throws(LogStoreError) -> Value) throws(IndexFailure) -> Value {
    do throws(LogStoreError) {
      return try body()
    } catch {
      throw .log(error)
    }
  }

  private static func error(_ failure: IndexFailure) -> LogStoreError {
    switch failure {
    case .log(let error): error
    case .index(let file, let fault, _): file.damage(fault)
    case .sharedKey, .stopped: preconditionFailure("making an index from a segment is not given up")
    }
  }
}
