/// What the log knows about an append's event ids.
enum KnownIDs {
  /// The log has none of the ids.
  case none
  /// The log has all of them, as this very append: it is being repeated.
  case same(Appended)
  /// The log has some of them, as something else.
  case different(EventIDReuse)
}

/// Compares an append with the events in the log that have its ids. Considers only durable events: the caller has checked
/// that no other event has one of the ids.
///
/// The rule, also in docs/FORMAT.md: an id names one event of the store. An append is the same as an earlier one if all of
/// its events have ids, the log has events with these ids at consecutive offsets in the append's order, and each of them
/// has the stream, the type and the payload that the append gives it, and the version that a condition of the append
/// requires, if one names a version. Metadata is not compared: it describes the attempt, for example with a trace id.
struct KnownIDCheck {
  private typealias Found = (record: Record, segment: Segment)

  private let append: EncodedAppend
  private let given: [EncodedAppend.Given]
  private let segments: SegmentSet
  /// The version that a condition requires of each event; nil where none does.
  private let versions: [UInt64?]

  init(_ append: EncodedAppend, _ given: [EncodedAppend.Given], _ segments: SegmentSet) {
    self.append = append
    self.given = given
    self.segments = segments
    var last = append.streams.map(\.condition.namedVersion)
    versions = given.indices.map { event in
      let stream = append.stream(of: event)
      guard let before = last[stream] else { return nil }
      // A condition that names the greatest possible version is never met, so the wrapped sum doesn't matter.
      last[stream] = before &+ 1
      return last[stream]
    }
  }

  /// Whether the log may have one of the ids; false is certain.
  func mayBeKnown() throws(LogStoreError) -> Bool { try segments.mayHold(given.lazy.compactMap(\.id)) }

  func run() throws(LogStoreError) -> KnownIDs {
    var found: [Found?] = []
    for (event, given) in given.enumerated() {
      guard let id = given.id else {
        found.append(nil)
        continue
      }
      found.append(try segments.find(id: id) { difference($0, $1, from: event) == nil })
    }
    guard let known = found.firstIndex(where: { $0 != nil }) else { return .none }
    for (event, match) in found.enumerated() {
      guard let match, let difference = difference(match.record, match.segment, from: event) else { continue }
      return .different(reuse(event, match, difference))
    }
    var matches: [Found] = []
    for (event, match) in found.enumerated() {
      guard let match, matches.isEmpty || offset(match) == offset(matches[0]) + UInt64(event) else {
        // Proof: `known` is the index of an element that is not nil.
        return .different(reuse(known, found[known].unsafelyUnwrapped, .append(event: event)))
      }
      matches.append(match)
    }
    let first = offset(matches[0])
    return .same(
      Appended(
        offsets: first..<first + UInt64(matches.count), versions: matches.map(\.record.version), isRepeat: true))
  }

  private func offset(_ found: Found) -> UInt64 { found.segment.baseOffset + UInt64(found.record.relativeOffset) }

  /// How the append's event differs from the one in the log, apart from its neighbours; nil if it doesn't.
  private func difference(_ record: Record, _ segment: Segment, from event: Int) -> EventIDReuse.Difference? {
    let stream = append.stream(of: event)
    guard append.key(of: stream).matches(record, in: segment.bytes) else { return .stream(append.name(of: stream)) }
    if let version = versions[event], version != record.version { return .version(version) }
    return append.bytes.withUnsafeBytes { bytes in
      let own = Record(trusted: bytes, at: given[event].position)
      let type = bytes.part(own.typePosition, own.typeLength)
      guard equal(type, segment.bytes.part(record.typePosition, record.typeLength)) else {
        return .type(String(decoding: type, as: UTF8.self))
      }
      let payload = bytes.part(own.payloadPosition, own.payloadLength)
      let known = segment.bytes.part(record.payloadPosition, record.payloadLength)
      if equal(payload, known) { return nil }
      let position = zip(payload, known).enumerated().first { $0.element.0 != $0.element.1 }?.offset
      return .payload(
        byteCount: payload.count, knownByteCount: known.count,
        firstDifference: position ?? min(payload.count, known.count))
    }
  }

  private func reuse(_ event: Int, _ found: Found, _ difference: EventIDReuse.Difference) -> EventIDReuse {
    let bytes = found.segment.bytes
    return EventIDReuse(
      id: found.record.id(in: bytes, checksumSeed: found.segment.checksumSeed), event: event, offset: offset(found),
      stream: String(decoding: found.record.name(in: bytes), as: UTF8.self), version: found.record.version,
      type: String(decoding: bytes.part(found.record.typePosition, found.record.typeLength), as: UTF8.self),
      difference: difference)
  }
}
