/// Spans as a request of OTLP, in its JSON encoding
/// (https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding): also what the API shows.
struct SpanBatch {
  private(set) var count = 0
  private var bytes: [UInt8]
  private var start = 0

  /// - Parameter resource: the attributes of the process.
  init(resource: [(name: String, value: String)]) {
    bytes = []
    add("{\"resourceSpans\":[{\"resource\":{\"attributes\":")
    add(resource)
    add("},\"scopeSpans\":[{\"scope\":{\"name\":\"regispay\"},\"spans\":[")
    start = bytes.count
  }

  init(resource: [(name: String, value: String)], _ spans: [Span]) {
    self.init(resource: resource)
    for span in spans { add(span) }
  }

  /// The request's body.
  var request: [UInt8] { bytes + "]}]}]}".utf8 }

  mutating func removeAll() {
    bytes.removeSubrange(start...)
    count = 0
  }

  mutating func add(_ span: Span) {
    if count > 0 { add(",") }
    count += 1
    add("{\"traceId\":\"")
    add(span.trace.text)
    add("\",\"spanId\":\"")
    add(spanText(span.id))
    if let parent = span.parent {
      add("\",\"parentSpanId\":\"")
      add(spanText(parent))
    }
    add("\",\"name\":")
    add(quoted: span.name)
    if let state = span.state {
      add(",\"traceState\":")
      add(quoted: state)
    }
    add(",\"kind\":")
    add(String(span.kind.rawValue))
    add(",\"startTimeUnixNano\":")
    add(time: span.began)
    if let ended = span.ended {
      add(",\"endTimeUnixNano\":")
      add(time: ended)
    }
    if !span.attributes.isEmpty {
      add(",\"attributes\":")
      add(span.attributes)
    }
    add(span.notes)
    if let error = span.error {
      add(",\"status\":{\"code\":2,\"message\":")
      add(quoted: error)
      add("}")
    }
    add("}")
  }

  private mutating func add(_ notes: [PaymentTrace.Note]) {
    guard !notes.isEmpty else { return }
    add(",\"events\":[")
    for (number, note) in notes.enumerated() {
      add(number > 0 ? ",{\"timeUnixNano\":" : "{\"timeUnixNano\":")
      add(time: note.microseconds)
      add(",\"name\":")
      add(quoted: note.name)
      if let reason = note.reason {
        add(",\"attributes\":")
        add([("reason", reason)])
      }
      add("}")
    }
    add("]")
  }

  private mutating func add(_ attributes: [(name: String, value: String)]) {
    add("[")
    for (number, attribute) in attributes.enumerated() {
      add(number > 0 ? ",{\"key\":" : "{\"key\":")
      add(quoted: attribute.name)
      add(",\"value\":{\"stringValue\":")
      add(quoted: attribute.value)
      add("}}")
    }
    add("]")
  }

  /// Nanoseconds as text, as OTLP has 64-bit numbers.
  private mutating func add(time microseconds: UInt64) {
    add("\"")
    add(String(microseconds))
    add("000\"")
  }

  private mutating func add(quoted text: String) { JSONValue.string(text).write(to: &bytes) }

  private mutating func add(_ text: String) { bytes.append(contentsOf: text.utf8) }
}
