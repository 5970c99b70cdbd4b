/// The checkpoints of all cursors, by name.
typealias Checkpoints = [[UInt8]: UInt64]

extension Checkpoints {
  /// Stands for a deleted cursor: no log has this many events.
  static let deleted = CursorCommit.deletedOffset

  /// Applies a cursor's record by the rule of the format: forward only, except for a reset.
  mutating func apply(_ record: Record, in bytes: UnsafeRawBufferPointer) {
    let name = Array(record.name(in: bytes))
    self[name] = record.kind == .cursorReset ? record.version : Swift.max(self[name] ?? 0, record.version)
    if record.version == Self.deleted { self[name] = nil }
  }
}

/// The state of a scan over a segment's frames.
struct RecoveryScan: Sendable {
  /// The position of the next frame, and what the frame must continue.
  var next: FrameExpectation
  var cursors: Checkpoints = [:]
  /// The greatest synced position in the frames so far. Everything before it is proven to have been on disk.
  var provenPosition: Int

  init(_ segment: Segment) {
    next = segment.start
    provenPosition = SegmentHeader.byteCount
  }

  /// The end of the log, if it is at the scan's position.
  func end(in segment: Segment) -> DurableEnd {
    DurableEnd(offset: next.offset, baseOffset: segment.baseOffset, position: next.position)
  }

  enum End: Sendable {
    /// The end is the frame that the next segment continues, by its header.
    case successor(endOffset: UInt64, chain: UInt32)
    /// All frames before this position, which must be complete.
    case position(Int)
    /// All frames up to the first invalid one.
    case firstInvalid
  }

  /// Checks frame after frame and adds them to the index, up to an end. Returns the fault if the scan stopped before.
  ///
  /// Reads every byte on the way; about 70 ns for an event of 256 bytes.
  mutating func go(to end: End, in segment: Segment, adding index: ActiveIndex) -> Fault? {
    index.state.withLock { state in
      while true {
        switch end {
        case .successor(let endOffset, let chain):
          if next.offset == endOffset && next.chain == chain { return nil }
        case .position(let position):
          if next.position >= position { return nil }
        case .firstInvalid:
          break
        }
        do throws(Fault) {
          let header = try segment.checkFrame(next) { record throws(Fault) in
            if record.kind == .event {
              let hash = streamHash(record.name(in: segment.bytes))
              guard ActiveIndex.add(record, hash: hash, to: &state, in: segment) else {
                throw Fault(
                  position: record.position + RecordField.version,
                  reason: "the event's version does not continue its stream")
              }
            } else if record.kind == .lostStream {
              _ = try LostStream(record, in: segment)
            } else {
              cursors.apply(record, in: segment.bytes)
            }
          }
          if next.position == SegmentHeader.byteCount {
            guard header.eventCount == 0 else {
              throw Fault(position: next.position + FrameField.eventCount, reason: "a cursor snapshot with events")
            }
          }
          ActiveIndex.addFrame(header, at: next.position, to: &state, in: segment)
          provenPosition = max(provenPosition, header.syncedPosition)
          next.advance(past: header)
        } catch {
          return error
        }
      }
    }
  }
}

/// The end of the log, as recovery has found it.
struct RecoveredTail: Sendable {
  var index: ActiveIndex
  var scan: RecoveryScan
  /// An unfinished write behind the end, which opening cuts off.
  var torn: Damage?

  var segment: Segment { index.segment }
  var end: DurableEnd {
    scan.end(in: segment)
  }
}

extension RecoveredTail {
  /// Reads the last segment and decides where the log ends, by the rules of docs/FORMAT.md. Changes nothing.
  static func find(in segment: Segment, clean: CleanEnd?, cleanPath: String) throws(LogStoreError) -> RecoveredTail {
    let index = ActiveIndex(segment)
    var scan = RecoveryScan(segment)
    if let clean {
      guard clean.baseOffset == segment.baseOffset else {
        throw .damaged(
          Damage(
            file: cleanPath, position: UInt64(CleanEnd.Field.baseOffset),
            reason: "the log was closed in the segment of offset \(clean.baseOffset), but the last segment there is"
              + " begins with \(segment.baseOffset)"))
      }
      if let fault = scan.go(to: .position(Int(clamping: clean.endPosition)), in: segment, adding: index) {
        throw segment.damage(
          Fault(
            position: fault.position,
            reason:
              "\(fault.reason); the log was closed cleanly at byte \(clean.endPosition), offset \(clean.endOffset)"))
      }
      guard scan.next.offset == clean.endOffset, scan.next.chain == clean.chain,
        UInt64(scan.next.position) == clean.endPosition
      else {
        throw segment.damage(
          Fault(
            position: scan.next.position,
            reason: scan.next.offset != clean.endOffset
              ? "the log ends with offset \(scan.next.offset) here, but was closed at offset \(clean.endOffset)"
              : UInt64(scan.next.position) != clean.endPosition
                ? "the log ends at byte \(scan.next.position), but was closed at byte \(clean.endPosition)"
                : "the log's last frame is not the one with which it was closed, though offset and byte are the same"))
      }
      if FrameHeader(in: segment.bytes, at: scan.next.position, checksumSeed: segment.checksumSeed) != nil {
        throw segment.damage(
          Fault(position: scan.next.position, reason: "a frame behind the end at which the log was closed cleanly"))
      }
      return RecoveredTail(index: index, scan: scan, torn: nil)
    }

    // Without a recorded end the scan always stops at a fault.
    guard let fault = scan.go(to: .firstInvalid, in: segment, adding: index) else {
      preconditionFailure("a walk without an end ended without a fault")
    }
    let end = scan.next.position
    // This reads everything behind the end. If some of it can't be read, the end of the log is unknown, since those bytes
    // may be anything.
    let proof = segment.proofThatSynced(end)
    let behind = segment.bytes.part(end, segment.bytes.count - end).countWithoutTrailingZeros
    try segment.checkReadable(end..<segment.bytes.count, since: .max)
    if end == SegmentHeader.byteCount {
      throw segment.damage(
        Fault(
          position: fault.position, reason: "\(fault.reason); this frame was synced before the segment got its name"))
    }
    if let proof {
      throw segment.damage(
        Fault(
          position: fault.position,
          reason: "\(fault.reason); the frame at byte \(proof) was written after this one had been synced"))
    }
    let missing = Int(segment.header.fileByteCount) - segment.bytes.count
    var torn: Damage?
    if behind > 0 || missing > 0 {
      torn = Damage(
        file: segment.path, position: UInt64(end),
        reason: missing > 0
          ? "an unfinished write ends the log here, and the file is \(missing) bytes short (\(fault.reason));"
            + " nothing acknowledged was in it"
          : "an unfinished write of \(behind) bytes ends the log here (\(fault.reason)); nothing acknowledged was in it"
      )
    }
    return RecoveredTail(index: index, scan: scan, torn: torn)
  }
}
