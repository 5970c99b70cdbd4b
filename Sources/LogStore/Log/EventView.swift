/// An event as it stands in the mapped log: borrowed, checked, not copied. The compiler keeps it, and every span that it
/// gives, from being used after whoever lent it goes on; ``copy()`` may be kept.
///
/// Every property is read from the log when it is asked for, without a call: what isn't asked for costs nothing.
public struct EventView: ~Copyable, ~Escapable {
  @usableFromInline let record: SoundRecord
  @usableFromInline let baseOffset: UInt64
  @usableFromInline let storeIDFirst: UInt64
  /// Microseconds since 1970-01-01 UTC.
  public let timestampMicroseconds: UInt64

  /// The memory of `record` must outlive the view: the caller says by whose lifetime that is so.
  @inlinable
  @_lifetime(immortal)
  init(_ record: SoundRecord, baseOffset: UInt64, storeIDFirst: UInt64, timestampMicroseconds: UInt64) {
    self.record = record
    self.baseOffset = baseOffset
    self.storeIDFirst = storeIDFirst
    self.timestampMicroseconds = timestampMicroseconds
  }

  /// Place in the whole log, from 0.
  @inlinable public var offset: UInt64 { baseOffset &+ UInt64(record.relativeOffset) }
  /// Place in the stream, from 1.
  @inlinable public var version: UInt64 { record.version }
  /// The stored id, or the one made of the event's place.
  public var id: EventID { record.id ?? EventID(high: storeIDFirst.byteSwapped, low: offset) }
  /// The stream's id in UTF-8.
  @inlinable public var stream: RawSpan {
    @_lifetime(copy self) get { span(record.name) }
  }
  /// The event's type in UTF-8.
  @inlinable public var type: RawSpan {
    @_lifetime(copy self) get { span(record.type) }
  }
  /// The bytes that the event was appended with as its metadata.
  @inlinable public var metadata: RawSpan {
    @_lifetime(copy self) get { span(record.metadata) }
  }
  /// The bytes that the event was appended with as its payload.
  @inlinable public var payload: RawSpan {
    @_lifetime(copy self) get { span(record.payload) }
  }

  @inlinable
  @inline(__always)
  @_lifetime(copy self)
  func span(_ bytes: UnsafeRawBufferPointer) -> RawSpan {
    // Proof: the record lies in a mapping that whoever lent this view holds for as long as the view may live, and the
    // span may live no longer. It does not depend on the view itself: then the compiler would put every view that a span
    // is taken of into a box, one allocation an event.
    _overrideLifetime(RawSpan(_unsafeBytes: bytes), copying: self)
  }

  /// A copy that may be kept; four allocations.
  public func copy() -> Event {
    Event(
      offset: offset, stream: String(decoding: record.name, as: UTF8.self), version: version,
      type: String(decoding: record.type, as: UTF8.self), id: id, timestampMicroseconds: timestampMicroseconds,
      metadata: Array(record.metadata), payload: Array(record.payload))
  }
}
