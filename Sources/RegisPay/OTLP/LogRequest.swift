import Logging

/// Log lines as a request of OTLP.
enum LogRequest {
  static func bytes(_ records: some Sequence<LogRecord>, resource: [(name: String, value: String)]) -> [UInt8] {
    var text = OTLPText()
    text.add("{\"resourceLogs\":[{\"resource\":{\"attributes\":")
    text.add(resource)
    text.add("},\"scopeLogs\":[{\"scope\":{\"name\":\"regispay\"},\"logRecords\":[")
    var isFirst = true
    for record in records {
      if !isFirst { text.add(",") }
      isFirst = false
      add(record, to: &text)
    }
    text.add("]}]}]}")
    return text.bytes
  }

  private static func add(_ record: LogRecord, to text: inout OTLPText) {
    text.add("{\"timeUnixNano\":")
    text.add(time: record.microseconds)
    text.add(",\"observedTimeUnixNano\":")
    text.add(time: record.microseconds)
    text.add(",\"severityNumber\":\(record.level.severityNumber),\"severityText\":\"\(record.level.rawValue)\"")
    text.add(",\"body\":{\"stringValue\":")
    text.add(quoted: record.message)
    text.add("},\"attributes\":")
    text.add(
      [("source", record.source)] + record.fields.filter { !idDigits.keys.contains($0.key) }.map { ($0.key, $0.value) })
    for (key, name) in [("trace_id", "traceId"), ("span_id", "spanId")] {
      guard let value = record.fields.first(where: { $0.key == key })?.value, isID(value, digits: idDigits[key]) else {
        continue
      }
      text.add(",\"\(name)\":\"\(value)\"")
    }
    text.add("}")
  }

  /// The fields that have places of their own, and their lengths.
  private static let idDigits = ["trace_id": 32, "span_id": 16]

  private static func isID(_ text: String, digits: Int?) -> Bool {
    text.utf8.count == digits
      && text.utf8.allSatisfy { byte in
        (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) || (UInt8(ascii: "a")...UInt8(ascii: "f")).contains(byte)
      }
  }
}

extension Logger.Level {
  /// The number of OpenTelemetry's data model (https://opentelemetry.io/docs/specs/otel/logs/data-model/#field-severitynumber).
  fileprivate var severityNumber: Int {
    switch self {
    case .trace: 1
    case .debug: 5
    case .info: 9
    case .notice: 10
    case .warning: 13
    case .error: 17
    case .critical: 21
    }
  }
}
