/// The address of a record in a snapshot of the log: the segment's ordinal in the snapshot, and the position in the segment.
///
/// One word, so that a list of addresses takes 8 bytes an event. A segment has less than 2^32 bytes.
struct RecordAddress: Equatable, Sendable {
  private let packed: UInt64

  @inline(__always)
  init(ordinal: Int, position: Int) {
    packed = UInt64(ordinal) << 32 | UInt64(position)
  }

  @inline(__always) var ordinal: Int { Int(packed >> 32) }
  @inline(__always) var position: Int { Int(packed & 0xFFFF_FFFF) }
}
