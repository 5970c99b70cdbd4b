/// Makes and merges index files. Only in the process that holds the writer's lock, and not for more than one thread.
final class IndexBuilder {
  let segments: SegmentSet
  let disk: any Disk
  /// Of segments whose index could not be made, and files that could not be merged: not tried again at once.
  private var failedSegments: Set<UInt64> = []
  private var mergeFailed = false
  /// Index files that are not sound wait to be replaced.
  private var hasSuspects = false

  init(segments: SegmentSet, disk: any Disk) {
    self.segments = segments
    self.disk = disk
  }

  /// Something was left undone because it could not be done.
  var hasFailed: Bool { mergeFailed || !failedSegments.isEmpty }

  /// What failed may be tried again.
  func forgetFailures() {
    failedSegments = []
    mergeFailed = false
  }

  /// Makes the index file of a segment that has ended, from its index in memory, and returns the file's length.
  ///
  /// The segment may be damaged by now, or cut: with the file, only what is lost of it is refused, and without one nothing
  /// could be said of any stream that has no event in a later segment.
  @discardableResult
  func seal(_ index: ActiveIndex, end: FrameExpectation) throws(LogStoreError) -> Int {
    // Taken out under the lock and used without it: readers may look into the index meanwhile.
    let input = index.state.withLock { $0.sealingInput() }
    do throws(IndexFailure) {
      return try write(index.segment.baseOffset..<end.offset) { output throws(IndexFailure) in
        try IndexEncoding.encode(input, of: index.segment, end: end, to: output)
      }
    } catch {
      throw Self.error(error)
    }
  }

  /// Makes the index file of a finished segment from the segment alone. Gives back its length.
  @discardableResult
  func build(_ baseOffset: UInt64) throws(LogStoreError) -> Int {
    let (index, end) = try segments.readThrough(try segments.segmentToScan(baseOffset))
    // What was just read for the index may be zeros that are not the file's.
    try index.segment.checkReadable(0..<end.position, since: 0)
    let byteCount = try seal(index, end: end)
    // It may be the last that a file of several segments waited for.
    if hasSuspects { try clean() }
    return byteCount
  }

  /// Removes index files that are of no use, and returns what is there then.
  @discardableResult
  func clean() throws(LogStoreError) -> Snapshot {
    let listing = try segments.list()
    for name in listing.useless { try disk.remove(join(segments.directory, name)) }
    hasSuspects = !listing.suspects.isEmpty
    return listing.snapshot
  }

  /// Whether some segment's index, or some merging, is still to be made.
  func nextStep() throws(LogStoreError) -> Step? {
    let snapshot = try segments.current()
    let missing = snapshot.sources.last { source in
      source.kind == .missing && !failedSegments.contains(snapshot.bases[source.ordinal])
    }
    if let missing { return .build(snapshot.bases[missing.ordinal]) }
    guard !mergeFailed else { return nil }
    // Runs of files without a gap, each looked at by itself.
    var run: [IndexFile] = []
    for file in snapshot.files.reversed() + [nil] {
      if let file, run.last.map({ $0.endOffset == file.baseOffset }) ?? true {
        run.append(file)
        continue
      }
      if let range = MergePlan.next(run.map(\.segmentCount)) { return .merge(Array(run[range])) }
      run = file.map { [$0] } ?? []
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

  /// Takes a step.
  ///
  /// - Parameter between: called now and then; may throw to give up.
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
          // It is taken out, and removed once its segments have other files.
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
      // Nothing was taken over from a page that could not be read again after it was checked.
      for file in files where file.hasFaults {
        throw IndexFailure.index(file, Fault(position: 0, reason: "the index can't be read"), segment: nil)
      }
      return byteCount
    }
    // Not before the new file is durable under its name. What is left of them after a crash is removed by the next writer.
    do throws(LogStoreError) {
      for file in files { try disk.remove(file.path) }
    } catch {
      throw .log(error)
    }
  }

  /// Makes a file appear under its name, durable, and makes it known.
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
      // Whatever else is wrong with the disk, the next writer removes it too.
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
