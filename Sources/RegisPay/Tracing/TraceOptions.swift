/// Where traces go, and which: ``OTLPOptions``, and the variables for spans.
public struct TraceOptions: Sendable {
  /// Nil to send no traces.
  var exporter: OTLPOptions?
  /// How long spans are gathered at most before they are sent.
  public var delay = Duration.seconds(5)
  /// The most spans in one request.
  public var batchLimit = 512
  /// Spans that are older when a collector can be reached again are dropped.
  var ageLimit = Duration.seconds(3_600)
  var sampler = TraceSampler.none
  /// What describes the process.
  var resource = [(name: "service.name", value: "regispay")]

  public init() {}

  var tracing: Tracing { Tracing(sampler: sampler) }

  /// - Throws: for a value that can't be used. Variables that concern other things than traces are not looked at.
  public init(environment: [String: String]) throws(OTLPOptionsError) {
    let environment = environment.filter { !$0.value.isEmpty }
    resource = try OTLPOptions.resource(environment)
    exporter = try OTLPOptions(.traces, environment)
    guard exporter != nil else { return }
    if let text = environment["OTEL_BSP_SCHEDULE_DELAY"] {
      delay = try OTLPOptions.milliseconds(text, "OTEL_BSP_SCHEDULE_DELAY", 0...600_000)
    }
    if let text = environment["OTEL_BSP_MAX_EXPORT_BATCH_SIZE"] {
      guard let number = Int(text), (1...10_000).contains(number) else {
        throw OTLPOptionsError("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "it must be 1 to 10000 spans")
      }
      batchLimit = number
    }
    sampler = try Self.sampler(environment)
  }

  private static func sampler(_ environment: [String: String]) throws(OTLPOptionsError) -> TraceSampler {
    let name = environment["OTEL_TRACES_SAMPLER"] ?? "parentbased_always_on"
    let parts = name.hasPrefix("parentbased_") ? (String(name.dropFirst("parentbased_".count)), true) : (name, false)
    switch parts.0 {
    case "always_on": return TraceSampler(ratio: 1, followsParent: parts.1)
    case "always_off": return TraceSampler(ratio: 0, followsParent: parts.1)
    case "traceidratio":
      let text = environment["OTEL_TRACES_SAMPLER_ARG"] ?? "1"
      guard let ratio = Double(text), (0...1).contains(ratio) else {
        throw OTLPOptionsError("OTEL_TRACES_SAMPLER_ARG", "it must be a number from 0 to 1")
      }
      return TraceSampler(ratio: ratio, followsParent: parts.1)
    default:
      throw OTLPOptionsError(
        "OTEL_TRACES_SAMPLER",
        "it must be always_on, always_off or traceidratio, or one of these behind parentbased_")
    }
  }
}
