@testable import LogStore

/// The files that a store can't be read without, and its index: changed here and there, with their checksums right again or
/// not, and then opened, scanned, looked up in, verified, written to.
enum SegmentTarget {
  static func run(_ input: inout InputReader) {
    let choices = input.byte()
    let seed = Seed.all[Int(choices) % Seed.all.count]
    let isResealed = choices & 0x40 != 0
    let isWritten = choices & 0x80 != 0
    let selector = input.byte()
    var edits = Edits(seed.files, names: seed.names, fields: seed.fields)
    edits.apply(&input) { $0 != FileName.tail && (selector & 1 == 0 || !$0.hasSuffix(".idx")) }
    edits.settle(against: seed.files)
    if isResealed { edits.reseal() }
    edits.settle(against: seed.files)
    let reading = Reading(edits.disk(seed), seed, edits, isResealed: isResealed)
    let verified = reading.verify()
    reading.readAll(selector: selector, verified: verified)
    if isWritten { Writing(edits.writableDisk(), seed, edits, isResealed: isResealed).run(verified: verified) }
  }
}

/// Reads a changed store in every way, and compares with what was in it.
struct Reading {
  let disk: MemoryDisk
  let seed: Seed
  let edits: Edits
  let isResealed: Bool

  init(_ disk: MemoryDisk, _ seed: Seed, _ edits: Edits, isResealed: Bool) {
    self.disk = disk
    self.seed = seed
    self.edits = edits
    self.isResealed = isResealed
  }

  private var isLogTouched: Bool { edits.touched.contains { !$0.hasSuffix(".idx") && $0 != FileName.tail } }
  private var isCleanWhole: Bool {
    edits.files[FileName.clean] != nil && !edits.touched.contains(FileName.clean)
  }

  func verify() -> VerificationReport? {
    var verification = Verification(directory: Seed.directory, disk: disk, progress: nil)
    do throws(LogStoreError) {
      try verification.run()
    } catch {
      accept(error)
      return nil
    }
    for damage in verification.report.findings { accept(.damaged(damage)) }
    if !isResealed {
      let isFound = !verification.report.findings.isEmpty
      // Files that are gone may be missed by nobody: an index, the record of the clean end.
      let isInPlace = edits.touched.contains { edits.files[$0]?.count == seed.files[$0]?.count && $0 != FileName.tail }
      if isInPlace, seed.shape != .killed, isCleanWhole {
        promise(isFound, "verify finds what was changed in \(edits.touched)")
      }
      if edits.touched.isEmpty { promise(!isFound, "verify finds nothing in a sound store") }
    }
    return verification.report
  }

  func readAll(selector: UInt8, verified: VerificationReport?) {
    let reader: LogReader
    do throws(LogStoreError) {
      let (follower, commitPoint, recovery) = try Follower.open(Seed.directory, disk: disk, follows: false)
      reader = LogReader(commitPoint: commitPoint, follower: follower, recovery: recovery)
    } catch {
      accept(error)
      return
    }
    let scanned = scan(reader)
    let isSound = verified?.findings.isEmpty ?? false
    if isSound, let verified {
      promise(
        scanned.failure == nil,
        "what verify finds sound can be read: \(scanned.failure.map(String.init(describing:)) ?? "")")
      promise(UInt64(scanned.events.count) == verified.events, "verify counts what is read")
    }
    if !isResealed { compare(scanned.events, scanned.failure, reader) }
    lookUp(reader, scanned.events, isScanned: scanned.failure == nil, selector)
    do throws(LogStoreError) {
      _ = try reader.statistics()
      for cursor in try reader.cursors() { _ = try reader.cursor(cursor.name) }
    } catch {
      accept(error)
    }
  }

  private func scan(_ reader: LogReader) -> (events: [Event], failure: LogStoreError?) {
    var events: [Event] = []
    do throws(LogStoreError) {
      try reader.forEach(from: 0) { event in
        events.append(event.copy())
        return true
      }
    } catch {
      accept(error)
      return (events, error)
    }
    var next = present(0, reader)
    for event in events {
      promise(event.offset == next, "offsets are dense but for gaps: \(event.offset) where \(next) comes next")
      next = present(next + 1, reader)
    }
    promise(next == reader.endOffset, "a scan comes to the end of the log")
    return (events, nil)
  }

  /// The first offset from this one on that is in no gap. A segment header that was sealed anew may tell of gaps.
  private func present(_ offset: UInt64, _ reader: LogReader) -> UInt64 {
    reader.gaps.reduce(offset) { $1.contains($0) ? $1.upperBound : $0 }
  }

  /// Against what was appended.
  private func compare(_ events: [Event], _ failure: LogStoreError?, _ reader: LogReader) {
    for event in events { expectAppended(event) }
    if failure != nil || events.count == seed.events.count { return }
    promise(!isCleanWhole, "after a clean close nothing is missing: \(events.count) of \(seed.events.count)")
    // What is missing at the end after a crash must itself be damaged.
    for frame in seed.frames where frame.offsets.upperBound > UInt64(events.count) && !frame.offsets.isEmpty {
      let now = edits.files[frame.file].map { Array($0.dropFirst(frame.bytes.lowerBound).prefix(frame.bytes.count)) }
      promise(
        now != seed.files[frame.file].map { Array($0[frame.bytes]) },
        "the frame of offsets \(frame.offsets) is whole, and is not served; the log ends with \(events.count)")
    }
  }

  private func expectAppended(_ event: Event) {
    promise(
      event.offset < UInt64(seed.events.count) && event == seed.events[Int(event.offset)],
      "offset \(event.offset) is what was appended there")
  }

  private func lookUp(_ reader: LogReader, _ scanned: [Event], isScanned: Bool, _ selector: UInt8) {
    let end = reader.endOffset
    // A record is looked up by its own check. One that lies about its offset, with the right checksum, is found by a scan.
    let isComparable = isScanned || !isResealed
    for offset in [UInt64(selector) * 2, end / 2, end &- 1, end] {
      do throws(LogStoreError) {
        let found = try reader.events(from: offset, limit: 3)
        var next = present(offset, reader)
        for event in found {
          promise(event.offset == next, "events from an offset on are those")
          if !isResealed { expectAppended(event) }
          if isComparable, let other = counterpart(event, scanned) {
            promise(event == other, "a seek gives what a scan gives")
          }
          next = present(next + 1, reader)
        }
        promise(found.count == 3 || next >= end, "a seek gives all that there is")
      } catch {
        accept(error)
      }
    }
    for stream in ["busy", "stream-\(selector % 41)", "stream-\(selector % 7)", "none"] {
      do throws(LogStoreError) {
        let found = try reader.stream(stream)
        let wanted = scanned.filter { $0.stream == stream }
        for (number, event) in found.enumerated() {
          promise(event.stream == stream && event.version == UInt64(number) + 1, "versions are dense")
          if isComparable, let other = counterpart(event, scanned) {
            promise(event == other, "a load gives what a scan gives")
          }
        }
        if !isResealed, isScanned {
          promise(found == wanted, "a load of \(stream) gives \(wanted.count) events, \(found.count) came")
        }
        let version = try reader.streamVersion(stream)
        if !isResealed, isScanned { promise(version == UInt64(wanted.count), "the version is the last event's") }
        _ = try reader.stream(stream, from: UInt64(selector) / 4 + 1, limit: 2)
        _ = try reader.stream(stream, from: .max, limit: 2)
      } catch {
        accept(error)
      }
    }
    for event in seed.events[Int(selector) % 40..<min(Int(selector) % 40 + 4, seed.events.count)] {
      do throws(LogStoreError) {
        let stream = StreamKey(Array(event.stream.utf8))
        let found = try reader.commitPoint.segments.find(id: event.id) { stream.matches($0, in: $1.bytes) }
        if let found {
          promise(
            found.record.id(in: found.segment.bytes, checksumSeed: found.segment.checksumSeed) == event.id,
            "the id is the one")
        }
        if !isResealed, isScanned, event.offset % 4 == 0, event.offset < end {
          promise(found != nil, "the id of offset \(event.offset) is found")
        }
      } catch {
        accept(error)
      }
    }
  }

  /// The event of that offset among the scanned ones, if the scan came so far.
  private func counterpart(_ event: Event, _ scanned: [Event]) -> Event? {
    let number = scanned.partitionPoint { $0.offset >= event.offset }
    return number < scanned.count && scanned[number].offset == event.offset ? scanned[number] : nil
  }

  /// Whether an error may be: it names a file and a byte, and something that was changed.
  func accept(_ error: LogStoreError) {
    if !isResealed {
      promise(isLogTouched || isIndexFinding(error), "a store whose log is untouched is read: \(error)")
    }
    switch error {
    case .damaged(let damage), .unreadable(let damage):
      promise(damage.file.hasPrefix(Seed.directory), "the damage is in a file of the store: \(damage)")
      guard !isResealed else { return }
      let name = String(damage.file.dropFirst(Seed.directory.utf8.count + 1))
      let areWhole = edits.touched.allSatisfy { edits.files[$0]?.count == seed.files[$0]?.count }
      // Of files that are gone, swapped or cut others may speak.
      if areWhole, edits.touched.filter({ $0.hasSuffix(".log") }).count <= 1 {
        promise(edits.touched.contains(name), "the file that was changed is named, not \(damage)")
      }
      promise(
        damage.position <= UInt64(max(edits.files[name]?.count ?? 0, 1 << 17)), "the byte is in the file: \(damage)")
    case .unsupportedFormat, .notAStore: break
    // A segment header that was sealed anew may tell of a gap.
    case .streamIncomplete: promise(isResealed, "a stream lacks events only behind a gap: \(error)")
    case .inputOutput, .diskFull, .locked, .closed, .stopped, .moved, .segmentLost, .cancelled, .backupDamaged,
      .backupRefused, .repairRefused, .repairUndecided, .conflict, .cursorBehind, .eventIDReused, .foreignFile,
      .invalidArgument,
      .limitExceeded:
      broken("another error than damage: \(error)")
    }
  }

  private func isIndexFinding(_ error: LogStoreError) -> Bool {
    if case .damaged(let damage) = error { damage.file.hasSuffix(".idx") } else { false }
  }
}

/// Opens a changed store for writing, and appends.
struct Writing {
  let disk: MemoryDisk
  let seed: Seed
  let edits: Edits
  let isResealed: Bool

  init(_ disk: MemoryDisk, _ seed: Seed, _ edits: Edits, isResealed: Bool) {
    self.disk = disk
    self.seed = seed
    self.edits = edits
    self.isResealed = isResealed
  }

  func run(verified: VerificationReport?) {
    var options = LogStore.Options()
    options.segmentBytes = 64 << 10
    let store: LogStore
    do throws(LogStoreError) {
      store = try LogStore.open(Seed.directory, options: options, disk: disk)
    } catch {
      return
    }
    let before = store.reader.endOffset
    let isDone = blocking {
      var isDone = true
      var next = before
      for (number, stream) in ["busy", "new", "stream-3"].enumerated() {
        do throws(LogStoreError) {
          let appended = try await store.append(
            Append(NewEvent(stream: stream, type: "Late", payload: [UInt8](repeating: 7, count: 100 * number))))
          if appended.offsets != next..<next + 1 { broken("an append goes to the end") }
          next += 1
        } catch {
          isDone = false
        }
      }
      do throws(LogStoreError) { try await store.close() } catch { isDone = false }
      return isDone
    }
    guard isDone else {
      // A sound log takes appends, whatever the index says; an index that lies with the right checksums may stand in the way.
      promise(isResealed || edits.touched.contains { $0.hasSuffix(".log") }, "a sound log takes appends")
      return
    }
    guard verified?.findings.allSatisfy({ $0.file.hasSuffix(".idx") }) ?? false, !isResealed else { return }
    var verification = Verification(directory: Seed.directory, disk: disk, progress: nil)
    do throws(LogStoreError) {
      try verification.run()
      // A damaged part of an index that no append came across may still be there.
      promise(
        verification.report.findings.allSatisfy { $0.file.hasSuffix(".idx") },
        "after it was written the log is sound: \(verification.report.findings)")
      promise(verification.report.events == before + 3, "the events that were there are there, and three more")
    } catch {
      broken("a store that was just written can be read: \(error)")
    }
  }
}
