import CLinux

/// Copies of a stream's first records, back to back: in memory only, never in a file.
///
/// ```
///  0 base offset of its segment u64   8 timestamp of its frame u64   16 the record's bytes, zeros to a multiple of 8
/// ```
///
/// The records were checked in their segments. A checksum over all copies is checked whenever they are read again.
struct PackedRecords: Sendable {
  private static let prefixByteCount = 16

  var bytes: [UInt8] = []
  private var checksum = RunningChecksum()
  private(set) var count = 0
  /// The offset of the last event.
  private(set) var lastOffset: UInt64 = 0

  /// The memory used, without the allocator's overhead.
  var byteCount: Int { bytes.capacity }

  /// Reserves room for this many records of this record's size.
  mutating func reserve(_ records: Int, like record: Record) {
    bytes.reserveCapacity(bytes.count + records * (Self.prefixByteCount + record.byteCount.roundedUp(to: 8)))
  }

  /// Adds the stream's next event.
  mutating func add(_ record: Record, in segment: UnsafeRawBufferPointer, baseOffset: UInt64, timestamp: UInt64) {
    let start = bytes.count
    bytes.append(integer: baseOffset)
    bytes.append(integer: timestamp)
    bytes.append(contentsOf: segment.part(record.position, record.byteCount))
    bytes.append(contentsOf: repeatElement(0, count: bytes.count.roundedUp(to: 8) - bytes.count))
    bytes.withUnsafeBytes { checksum.add($0.part(start, $0.count - start)) }
    count += 1
    lastOffset = baseOffset + UInt64(record.relativeOffset)
  }

  /// Prefetches the memory, up to 4 KiB of it, all lines at once.
  func prefetch() {
    bytes.withUnsafeBytes { bytes in
      guard let start = bytes.baseAddress else { return }
      for line in stride(from: 0, to: min(bytes.count, 4096), by: 64) { clinux_prefetch(start + line) }
    }
  }

  /// Whether the bytes are unchanged since they were added.
  var isSound: Bool {
    bytes.withUnsafeBytes { all in
      var found = RunningChecksum()
      found.add(all)
      return found.value == checksum.value
    }
  }

  /// Whether the records belong to the stream with this name. There must be at least one record. It need not be sound:
  /// nothing in it is trusted.
  func isNamed(_ name: [UInt8]) -> Bool {
    bytes.withUnsafeBytes { bytes in
      let hasID = bytes[Self.prefixByteCount + RecordField.flags] & Record.idFlag != 0
      let start = Self.prefixByteCount + Record.byteCount + (hasID ? Record.idByteCount : 0)
      guard Int(bytes[Self.prefixByteCount + RecordField.nameLength]) == name.count, start + name.count <= bytes.count
      else { return false }
      return name.withUnsafeBytes { equal($0, bytes.part(start, name.count)) }
    }
  }

  /// Visits at most `limit` records, from this number on. A record is valid only during the call that visits it. The records
  /// must be sound (``isSound``).
  func forEach<Failure: Error>(
    from first: Int, limit: Int,
    _ visit: (_ record: SoundRecord, _ baseOffset: UInt64, _ timestamp: UInt64) throws(Failure) -> Void
  ) throws(Failure) {
    // `withUnsafeBytes` does not pass a typed error on, hence the result.
    let result = bytes.withUnsafeBytes { bytes in
      Result { () throws(Failure) in
        var position = 0
        var number = 0
        while position < bytes.count, number - first < limit {
          // Proof: the bytes are what was added, so a whole record begins at each position.
          let record = SoundRecord(
            checked: bytes.part(position + Self.prefixByteCount, Record.byteCount).baseAddress.unsafelyUnwrapped)
          if number >= first { try visit(record, bytes.integer(at: position), bytes.integer(at: position + 8)) }
          position += Self.prefixByteCount + record.byteCount.roundedUp(to: 8)
          number += 1
        }
      }
    }
    try result.get()
  }
}
