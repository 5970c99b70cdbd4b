@testable import LogStore

/// Index files of a sound log, changed, as a rule with their checksums right again. Whatever they say, what is served is
/// what was appended.
enum IndexTarget {
  static func run(_ input: inout InputReader) {
    let choices = input.byte()
    let seed = Seed.all[Int(choices) % Seed.all.count]
    let isResealed = choices & 0x40 == 0
    let selector = input.byte()
    var edits = Edits(seed.files, names: seed.names, fields: seed.fields)
    edits.apply(&input) { $0.hasSuffix(".idx") }
    edits.settle(against: seed.files)
    if isResealed { edits.reseal() }
    edits.settle(against: seed.files)
    if !isResealed {
      let reading = Reading(edits.disk(seed), seed, edits, isResealed: false)
      reading.readAll(selector: selector, verified: reading.verify())
    }
    IndexClaims(edits.disk(seed), seed, selector).check()
    checkEach(edits, selector)
    if choices & 0x80 != 0 { maintain(edits.writableDisk(), seed, selector) }
  }

  /// By itself: its own check, and every look-up.
  private static func checkEach(_ edits: Edits, _ selector: UInt8) {
    for name in edits.touched.sorted() {
      guard let bytes = edits.files[name], let range = FileName.indexRange(name) else { continue }
      let memory = GuardedMemory(bytes)
      let mapping = Mapping(bytes: UnsafeRawBufferPointer(memory.bytes)) { _ in withExtendedLifetime(memory) {} }
      guard
        let index = try? IndexFile(
          mapping, path: name, storeID: StoreID(first: 0x3736_3534_3332_3130, second: 0x6665_6463_6261_3938),
          baseOffset: range.lowerBound, endOffset: range.upperBound)
      else { continue }
      let isSound = (try? index.check(missingEvents: 0)) != nil
      IndexProbe(index, isSound: isSound, selector: selector).run()
    }
  }

  /// As a writer does: removes what is of no use, makes what is missing, merges.
  private static func maintain(_ disk: MemoryDisk, _ seed: Seed, _ selector: UInt8) {
    var options = LogStore.Options()
    options.createIfMissing = false
    do throws(LogStoreError) {
      let opened = try Recovery(directory: Seed.directory, options: options, disk: disk).open()
      let maker = IndexBuilder(segments: opened.commitPoint.segments, disk: disk)
      try maker.clean()
      var steps = 0
      while let step = try maker.nextStep() {
        steps += 1
        promise(steps < 64, "making the index comes to an end")
        do throws(IndexFailure) { try maker.perform(step) } catch {
          if case .log(let error) = error { broken("the log is sound: \(error)") }
        }
      }
      opened.lock.release()
    } catch {
      broken("the log is sound: \(error)")
    }
    IndexClaims(disk, seed, selector).check()
  }
}

/// What must hold of a sound log whose index files say anything at all.
struct IndexClaims {
  let disk: MemoryDisk
  let seed: Seed
  let selector: UInt8

  init(_ disk: MemoryDisk, _ seed: Seed, _ selector: UInt8) {
    self.disk = disk
    self.seed = seed
    self.selector = selector
  }

  func check() {
    do throws(LogStoreError) {
      let (follower, commitPoint, recovery) = try Follower.open(Seed.directory, disk: disk, follows: false)
      let reader = LogReader(commitPoint: commitPoint, follower: follower, recovery: recovery)
      // Offsets: whatever the index says.
      for offset in [UInt64(selector), UInt64(selector) * 2 + 60, 100] where offset < reader.endOffset {
        let found = try reader.events(from: offset, limit: 2)
        promise(
          found == Array(seed.events[Int(offset)...].prefix(2)), "offset \(offset) is found whatever the index says")
      }
      streams(reader)
      ids(reader)
      _ = try reader.statistics()
    } catch {
      broken("the log is sound: \(error)")
    }
  }

  /// Nothing but a checked line or block can say that a key is not there; so what comes is a beginning of the truth, or
  /// an error.
  private func streams(_ reader: LogReader) {
    for stream in ["busy", "stream-\(selector % 41)", "none"] {
      let truth = seed.events(of: stream)
      if let found = try? reader.stream(stream) {
        promise(found == Array(truth.prefix(found.count)), "what is served of \(stream) is what was appended")
      }
      if let version = try? reader.streamVersion(stream) {
        promise(version <= UInt64(truth.count), "no version that was not appended")
      }
    }
  }

  private func ids(_ reader: LogReader) {
    for event in seed.events[Int(selector) % 60..<Int(selector) % 60 + 3] {
      let stream = StreamKey(Array(event.stream.utf8))
      guard let found = try? reader.commitPoint.segments.find(id: event.id, where: { stream.matches($0, in: $1.bytes) })
      else { continue }
      promise(
        found.segment.baseOffset + UInt64(found.record.relativeOffset) == event.offset, "the id leads to its event")
    }
  }
}

/// Every look-up in one index file.
struct IndexProbe {
  let index: IndexFile
  let isSound: Bool
  let selector: UInt8

  init(_ index: IndexFile, isSound: Bool, selector: UInt8) {
    self.index = index
    self.isSound = isSound
    self.selector = selector
  }

  func run() {
    for section in IndexSection.allCases {
      var keys: [UInt64] = [0, IndexKey.greatest, UInt64(selector) << 40]
      if section == .streams { keys.append(IndexKey.stream(hash: StreamKey(Array("busy".utf8)).hash)) }
      // Those that it lists; as far as they can be read.
      if let cursor = try? IndexCursor(
        index, section, keyOffset: 0, segmentOffset: 0, shift: index.header.addressShift)
      {
        var count = 0
        while cursor.key != .max {
          count += 1
          if count % 16 == 1, keys.count < 24 { keys.append(cursor.key) }
          guard (try? cursor.advance()) != nil else { break }
        }
      }
      for key in keys where key <= IndexKey.greatest { look(key, section) }
    }
    for offset in [index.baseOffset, index.baseOffset &+ UInt64(selector), index.endOffset &- 1, 0, .max] {
      for segment in 0..<min(index.segmentCount, 3) {
        _ = try? index.framePosition(atOrBefore: offset, segment: segment)
      }
    }
  }

  private func look(_ key: UInt64, _ section: IndexSection) {
    if section == .frames {
      _ = try? index.addresses(section, key)
      return
    }
    _ = index.filter(section).probe(key)
    let addresses = try? index.addresses(section, key)
    guard section == .streams else { return }
    var run: ContiguousArray<RecordAddress> = []
    do throws(Fault) {
      let claim = try index.run(key, from: UInt64(selector), limit: 5, firstOrdinal: 0, into: &run)
      promise(run.count <= 5, "a limit is kept")
      let last = try index.last(key)
      promise(
        (last == nil) == (claim == nil) && addresses?.isEmpty == (last == nil), "all say whether the key is there")
      if let last, last.isOrdered { promise(last.address == addresses?.last, "the last address is the last") }
    } catch {
      promise(!isSound, "what passes the index's own check can be looked up in: \(error)")
    }
  }
}
