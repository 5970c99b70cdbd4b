/// An open index file of one or more finished segments. Every part is checked before it is used: the header on opening,
/// blocks and filter lines when they are read. What the file says is a claim, which the caller checks against the record at
/// the address. Thread-safe.
final class IndexFile: Sendable {
  let path: String
  let header: IndexHeader
  /// True if this process built the index from a segment instead of reading a file.
  let isBuilt: Bool
  let checksumSeed: IndexChecksumSeed
  let mapping: Mapping

  var bytes: UnsafeRawBufferPointer { mapping.bytes }
  var baseOffset: UInt64 { header.baseOffset }
  var endOffset: UInt64 { header.endOffset }
  var segmentCount: Int { header.segments.count }

  init(
    _ mapping: Mapping, path: String, storeID: StoreID, baseOffset: UInt64, endOffset: UInt64, isBuilt: Bool = false
  ) throws(Fault) {
    header = try IndexHeader(mapping.bytes)
    self.mapping = mapping
    self.path = path
    self.isBuilt = isBuilt
    checksumSeed = header.checksumSeed
    guard header.storeID == storeID else {
      throw Fault(position: EnvelopeField.storeID, reason: "the index belongs to another store")
    }
    guard header.baseOffset == baseOffset, header.endOffset == endOffset else {
      throw Fault(position: IndexLayout.Field.baseOffset, reason: "the index is of other segments than its name says")
    }
  }

  func damage(_ fault: Fault) -> LogStoreError {
    let fault = explained(fault)
    return .damaged(Damage(file: path, position: UInt64(fault.position), reason: fault.reason))
  }

  /// Whether some part of the file could not be read.
  var hasFaults: Bool { mapping.faultCount > 0 }

  /// The fault, or, if that explains the fault, that the file can't be read.
  func explained(_ fault: Fault) -> Fault { mapping.explained(fault) }

  /// The number of the segment in the file, and the position in it, for an address.
  func split(_ address: UInt64) throws(Fault) -> (segment: Int, position: Int) {
    let shift = UInt64(header.addressShift)
    guard address >> shift < UInt64(segmentCount) else {
      throw Fault(position: 0, reason: "the index leads to a segment that it does not cover")
    }
    return (Int(address >> shift), Int(address & ((1 as UInt64) << shift - 1)))
  }

  /// The record's address for an address in this file.
  ///
  /// - Parameter firstOrdinal: the ordinal of the file's first segment in the snapshot.
  @inline(__always)
  func recordAddress(_ address: UInt64, firstOrdinal: Int) throws(Fault) -> RecordAddress {
    let (segment, position) = try split(address)
    return RecordAddress(ordinal: firstOrdinal + segment, position: position)
  }
}
