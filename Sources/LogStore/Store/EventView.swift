/// An event as it stands in the mapped log: borrowed, checked, not copied. It can't be kept beyond the closure that it is
/// given to; ``copy()`` can.
public struct EventView: ~Copyable {
  @usableFromInline let bytes: UnsafeRawBufferPointer
  let record: Record
  let place: Place
  /// Microseconds since 1970-01-01 UTC.
  public let timestampMicroseconds: UInt64

  init(_ record: Record, in bytes: UnsafeRawBufferPointer, place: Place, timestampMicroseconds: UInt64) {
    self.bytes = bytes
    self.record = record
    self.place = place
    self.timestampMicroseconds = timestampMicroseconds
  }

  /// Place in the whole log, from 0.
  public var offset: UInt64 { place.baseOffset &+ UInt64(record.relativeOffset) }
  /// Place in the stream, from 1.
  public var version: UInt64 { record.version }
  public var id: EventID { record.id(in: bytes, place: place) }
  /// The stream's id in UTF-8.
  public var stream: RawSpan {
    @_lifetime(borrow self) get { span(record.namePosition, record.nameLength) }
  }
  /// The event's type in UTF-8.
  public var type: RawSpan {
    @_lifetime(borrow self) get { span(record.typePosition, record.typeLength) }
  }
  public var metadata: RawSpan {
    @_lifetime(borrow self) get { span(record.metadataPosition, record.metadataLength) }
  }
  public var payload: RawSpan {
    @_lifetime(borrow self) get { span(record.payloadPosition, record.payloadLength) }
  }

  @_lifetime(borrow self)
  private func span(_ position: Int, _ byteCount: Int) -> RawSpan {
    // Proof: `bytes` is a mapping that whoever made this view holds until the view is gone, and the view can't be copied
    // out of the closure that borrows it; so the memory outlives the borrow, which is all the span may live.
    _overrideLifetime(RawSpan(_unsafeBytes: bytes.part(position, byteCount)), borrowing: self)
  }

  /// A copy that may be kept; four allocations.
  public func copy() -> Event {
    Event(
      offset: offset,
      stream: String(decoding: bytes.part(record.namePosition, record.nameLength), as: UTF8.self),
      version: version,
      type: String(decoding: bytes.part(record.typePosition, record.typeLength), as: UTF8.self),
      id: id,
      timestampMicroseconds: timestampMicroseconds,
      metadata: Array(bytes.part(record.metadataPosition, record.metadataLength)),
      payload: Array(bytes.part(record.payloadPosition, record.payloadLength)))
  }
}
