/// Spans as a request of OTLP, in its JSON encoding
/// (https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding): also what the API shows.
struct SpanBatch {
  private(set) var count = 0
  private var text = OTLPText()
  private var start = 0

  /// - Parameter resource: the attributes of the process.
  init(resource: [(name: String, value: String)]) {
    text.add("{\"resourceSpans\":[{\"resource\":{\"attributes\":")
    text.add(resource)
    text.add("},\"scopeSpans\":[{\"scope\":{\"name\":\"regispay\"},\"spans\":[")
    start = text.bytes.count
  }

  init(resource: [(name: String, value: String)], _ spans: [Span]) {
    self.init(resource: resource)
    for span in spans { add(span) }
  }

  /// The request's body.
  var request: [UInt8] { text.bytes + "]}]}]}".utf8 }

  mutating func removeAll() {
    text.bytes.removeSubrange(start...)
    count = 0
  }

  mutating func add(_ span: Span) {
    if count > 0 { text.add(",") }
    count += 1
    text.add("{\"traceId\":\"")
    text.add(span.trace.text)
    text.add("\",\"spanId\":\"")
    text.add(spanText(span.id))
    if let parent = span.parent {
      text.add("\",\"parentSpanId\":\"")
      text.add(spanText(parent))
    }
    text.add("\",\"name\":")
    text.add(quoted: span.name)
    if let state = span.state {
      text.add(",\"traceState\":")
      text.add(quoted: state)
    }
    text.add(",\"kind\":")
    text.add(String(span.kind.rawValue))
    text.add(",\"startTimeUnixNano\":")
    text.add(time: span.began)
    if let ended = span.ended {
      text.add(",\"endTimeUnixNano\":")
      text.add(time: ended)
    }
    if !span.attributes.isEmpty {
      text.add(",\"attributes\":")
      text.add(span.attributes)
    }
    add(span.notes)
    if let error = span.error {
      text.add(",\"status\":{\"code\":2,\"message\":")
      text.add(quoted: error)
      text.add("}")
    }
    text.add("}")
  }

  private mutating func add(_ notes: [PaymentTrace.Note]) {
    guard !notes.isEmpty else { return }
    text.add(",\"events\":[")
    for (number, note) in notes.enumerated() {
      text.add(number > 0 ? ",{\"timeUnixNano\":" : "{\"timeUnixNano\":")
      text.add(time: note.microseconds)
      text.add(",\"name\":")
      text.add(quoted: note.name)
      if let reason = note.reason {
        text.add(",\"attributes\":")
        text.add([("reason", reason)])
      }
      text.add("}")
    }
    text.add("]")
  }
}
