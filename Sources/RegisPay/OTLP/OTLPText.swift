/// A request of OTLP in its JSON encoding, as it is written
/// (https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding).
struct OTLPText {
  var bytes: [UInt8] = []

  mutating func add(_ attributes: [(name: String, value: String)]) {
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
  mutating func add(time microseconds: UInt64) {
    add("\"")
    add(String(microseconds))
    add("000\"")
  }

  mutating func add(quoted text: String) { JSONValue.string(text).write(to: &bytes) }

  mutating func add(_ text: String) { bytes.append(contentsOf: text.utf8) }
}
