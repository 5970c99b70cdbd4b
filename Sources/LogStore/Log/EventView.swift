/// An event in the mapped log: borrowed, checked, not copied. The compiler prevents its use, and that of every span from
/// it, after its lender moves on; ``copy()`` can be kept.
///
/// Every property is read from the log when it is used, without a call: an unused property costs nothing.
public struct EventView: ~Copyable, ~Escapable {
  @usableFromInline let record: SoundRecord
  @usableFromInline let baseOffset: UInt64
  @usableFromInline let storeIDFirst: UInt64
  /// Microseconds since 1970-01-01 UTC.
  public let timestampMicroseconds: UInt64

  /// The memory of `record` must outlive the view; the caller states whose lifetime guarantees that.
  @inlinable
  @_lifetime(immortal)
  init(_ record: SoundRecord, baseOffset: UInt64, storeIDFirst: UInt64, timestampMicroseconds: UInt64) {
    self.record = record
    self.baseOffset = baseOffset
    self.storeIDFirst = storeIDFirst
    self.timestampMicroseconds = timestampMicroseconds
  }

  /// The position in the whole log, counted in events from 0.
  @inlinable public var offset: UInt64 { baseOffset &+ UInt64(record.relativeOffset) }
  /// The position in the stream, from 1.
  @inlinable public var version: UInt64 { record.version }
  /// The stored id, or the one derived from the event's offset.
  public var id: EventID { record.id ?? EventID(high: storeIDFirst.byteSwapped, low: offset) }
  /// The stream's id in UTF-8.
  @inlinable public var stream: RawSpan {
    @_lifetime(copy self) get { span(record.name) }
  }
  /// The event's type in UTF-8.
  @inlinable public var type: RawSpan {
    @_lifetime(copy self) get { span(record.type) }
  }
  /// The event's metadata.
  @inlinable public var metadata: RawSpan {
    @_lifetime(copy self) get { span(record.metadata) }
  }
  /// The event's payload.
  @inlinable public var payload: RawSpan {
    @_lifetime(copy self) get { span(record.payload) }
  }

  @inlinable
  @inline(__always)
  @_lifetime(copy self)
  func span(_ bytes: UnsafeRawBufferPointer) -> RawSpan {
    // Proof: the record lies in a mapping that the lender of this view holds for as long as the view may live, and the span
    // may live no longer. The span does not depend on the view itself: the compiler would then box every view that a span
    // is taken from, which is one allocation per event.
    _overrideLifetime(RawSpan(_unsafeBytes: bytes), copying: self)
  }

  /// A copy that can be kept; four allocations.
  public func copy() -> Event {
    Event(
      offset: offset, stream: String(decoding: record.name, as: UTF8.self), version: version,
      type: String(decoding: record.type, as: UTF8.self), id: id, timestampMicroseconds: timestampMicroseconds,
      metadata: Array(record.metadata), payload: Array(record.payload))
  }
}
