/// Where log lines go beside standard error: ``OTLPOptions``, and the variables for log records.
public struct LogExportOptions: Sendable {
  /// Nil to send none.
  var exporter: OTLPOptions?
  /// How long lines are gathered before they are sent.
  var delay = Duration.seconds(1)
  /// The most lines in one request.
  var batchLimit = 512
  /// Lines that wait, at most.
  var queueLimit = 2_048
  /// What describes the process.
  var resource = [(name: "service.name", value: "regispay")]

  public init() {}

  /// - Throws: for a value that can't be used. Variables that concern other things than log lines are not looked at.
  public init(environment: [String: String]) throws(OTLPOptionsError) {
    let environment = environment.filter { !$0.value.isEmpty }
    resource = try OTLPOptions.resource(environment)
    exporter = try OTLPOptions(.logs, environment)
    guard exporter != nil else { return }
    if let text = environment["OTEL_BLRP_SCHEDULE_DELAY"] {
      delay = try OTLPOptions.milliseconds(text, "OTEL_BLRP_SCHEDULE_DELAY", 0...600_000)
    }
    queueLimit = try Self.number("OTEL_BLRP_MAX_QUEUE_SIZE", 1...100_000, environment) ?? queueLimit
    let batch = "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE"
    guard let limit = try Self.number(batch, 1...10_000, environment) else {
      batchLimit = min(batchLimit, queueLimit)
      return
    }
    guard limit <= queueLimit else {
      throw OTLPOptionsError(batch, "it must be at most OTEL_BLRP_MAX_QUEUE_SIZE, \(queueLimit) lines")
    }
    batchLimit = limit
  }

  /// What loggers put their lines into; nil if none are sent.
  public func makeQueue() -> LogQueue? { exporter == nil ? nil : LogQueue(limit: queueLimit) }

  private static func number(
    _ name: String, _ range: ClosedRange<Int>, _ environment: [String: String]
  ) throws(OTLPOptionsError) -> Int? {
    guard let text = environment[name] else { return nil }
    guard let number = Int(text), range.contains(number) else {
      throw OTLPOptionsError(name, "it must be \(range.lowerBound) to \(range.upperBound) lines")
    }
    return number
  }
}
