import Foundation

/// Where traces go, and which: what the environment variables say that the OpenTelemetry specification names
/// (https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/,
/// https://opentelemetry.io/docs/specs/otel/protocol/exporter/).
public struct TraceOptions: Sendable {
  /// Of the collector, with the path; nil to send no traces.
  public var url: String?
  /// Sent with each request.
  public var headers: [(name: String, value: String)] = []
  /// For one request.
  public var timeLimit = Duration.seconds(10)
  public var isCompressed = false
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
  public init(environment: [String: String]) throws(TraceOptionsError) {
    // By the specification, an empty value is as none.
    let environment = environment.filter { !$0.value.isEmpty }
    resource = try Self.resource(environment)
    guard environment["OTEL_SDK_DISABLED"]?.lowercased() != "true" else { return }
    switch environment["OTEL_TRACES_EXPORTER"] {
    case nil, "otlp": break
    case "none": return
    case let other?: throw TraceOptionsError("OTEL_TRACES_EXPORTER", "\(other) is none of otlp and none")
    }
    guard try setURL(environment) else { return }
    let (protocolName, protocolValue) = Self.exporter("PROTOCOL", environment)
    guard [nil, "http/json"].contains(protocolValue) else {
      throw TraceOptionsError(protocolName, "only http/json is possible, at the port of http/protobuf (4318)")
    }
    for name in ["CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE"] {
      let (variable, value) = Self.exporter(name, environment)
      if value != nil {
        throw TraceOptionsError(
          variable, "not possible: a collector with https needs a certificate that the system trusts")
      }
    }
    headers = try Self.headers(environment)
    let (compressionName, compression) = Self.exporter("COMPRESSION", environment)
    guard [nil, "none", "gzip"].contains(compression) else {
      throw TraceOptionsError(compressionName, "it must be none or gzip")
    }
    isCompressed = compression == "gzip"
    let (timeoutName, timeout) = Self.exporter("TIMEOUT", environment)
    if let timeout { timeLimit = try Self.milliseconds(timeout, timeoutName, 1...600_000) }
    if let text = environment["OTEL_BSP_SCHEDULE_DELAY"] {
      delay = try Self.milliseconds(text, "OTEL_BSP_SCHEDULE_DELAY", 0...600_000)
    }
    if let text = environment["OTEL_BSP_MAX_EXPORT_BATCH_SIZE"] {
      guard let number = Int(text), (1...10_000).contains(number) else {
        throw TraceOptionsError("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "it must be 1 to 10000 spans")
      }
      batchLimit = number
    }
    sampler = try Self.sampler(environment)
  }

  /// The variables that are looked at.
  private static let variables =
    [
      "OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG",
      "OTEL_SERVICE_NAME",
      "OTEL_RESOURCE_ATTRIBUTES", "OTEL_BSP_SCHEDULE_DELAY", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    ]
    + [
      "ENDPOINT", "PROTOCOL", "HEADERS", "COMPRESSION", "TIMEOUT", "CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE",
    ].flatMap { ["OTEL_EXPORTER_OTLP_TRACES_\($0)", "OTEL_EXPORTER_OTLP_\($0)"] }

  /// The variables in force, as comments of YAML: a configuration file has no names for them. Secrets are hidden.
  public static func text(_ environment: [String: String]) -> String {
    variables.compactMap { name -> String? in
      guard let value = environment[name], !value.isEmpty else { return nil }
      return "# \(name)=\(name.hasSuffix("_HEADERS") ? "(hidden)" : YAMLText.comment(value))\n"
    }.joined()
  }

  /// - Returns: the variable that counts, the one for traces before the one for all.
  private static func exporter(_ name: String, _ environment: [String: String]) -> (String, String?) {
    let own = "OTEL_EXPORTER_OTLP_TRACES_\(name)"
    if let value = environment[own] { return (own, value) }
    return ("OTEL_EXPORTER_OTLP_\(name)", environment["OTEL_EXPORTER_OTLP_\(name)"])
  }

  /// - Returns: false if no traces are sent.
  private mutating func setURL(_ environment: [String: String]) throws(TraceOptionsError) -> Bool {
    let (name, value) = Self.exporter("ENDPOINT", environment)
    guard var url = value ?? (environment["OTEL_TRACES_EXPORTER"] == nil ? nil : "http://localhost:4318") else {
      return false
    }
    if name == "OTEL_EXPORTER_OTLP_ENDPOINT" {
      while url.last == "/" { url.removeLast() }
      url += "/v1/traces"
    }
    do {
      _ = try Endpoint(url)
    } catch {
      throw TraceOptionsError(name, "\(error)")
    }
    self.url = url
    return true
  }

  private static func milliseconds(
    _ text: String, _ name: String, _ range: ClosedRange<Int>
  ) throws(TraceOptionsError) -> Duration {
    guard let number = Int(text), range.contains(number) else {
      throw TraceOptionsError(name, "it must be \(range.lowerBound) to \(range.upperBound) milliseconds")
    }
    return .milliseconds(number)
  }

  private static func headers(
    _ environment: [String: String]
  ) throws(TraceOptionsError) -> [(name: String, value: String)] {
    let (name, value) = exporter("HEADERS", environment)
    // The value may be a secret.
    guard let pairs = pairs(value ?? ""), pairs.allSatisfy({ isHeader($0.name, $0.value) }) else {
      throw TraceOptionsError(name, "it must be name=value,name=value, with values percent-encoded")
    }
    return pairs
  }

  private static func isHeader(_ name: String, _ value: String) -> Bool {
    name.utf8.allSatisfy { byte in
      switch byte {
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
        UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "."):
        true
      default: false
      }
    } && value.utf8.allSatisfy { (0x20..<0x7F).contains($0) }
      && !["content-type", "content-length", "content-encoding", "host", "transfer-encoding", "connection"]
        .contains(name.lowercased())
  }

  /// `name=value,name=value`; nil for anything else.
  private static func pairs(_ text: String) -> [(name: String, value: String)]? {
    var pairs: [(name: String, value: String)] = []
    for part in text.split(separator: ",") {
      guard let equals = part.firstIndex(of: "=") else { return nil }
      let name = part[..<equals].trimmingCharacters(in: .whitespaces)
      let text = part[part.index(after: equals)...].trimmingCharacters(in: .whitespaces)
      guard !name.isEmpty, let value = text.removingPercentEncoding else { return nil }
      pairs.append((name, value))
    }
    return pairs
  }

  private static func resource(
    _ environment: [String: String]
  ) throws(TraceOptionsError) -> [(name: String, value: String)] {
    guard var pairs = pairs(environment["OTEL_RESOURCE_ATTRIBUTES"] ?? "") else {
      throw TraceOptionsError(
        "OTEL_RESOURCE_ATTRIBUTES", "it must be name=value,name=value, with values percent-encoded")
    }
    if let name = environment["OTEL_SERVICE_NAME"] {
      pairs.removeAll { $0.name == "service.name" }
      pairs.insert(("service.name", name), at: 0)
    } else if !pairs.contains(where: { $0.name == "service.name" }) {
      pairs.insert(("service.name", "regispay"), at: 0)
    }
    return pairs
  }

  private static func sampler(_ environment: [String: String]) throws(TraceOptionsError) -> TraceSampler {
    let name = environment["OTEL_TRACES_SAMPLER"] ?? "parentbased_always_on"
    let parts = name.hasPrefix("parentbased_") ? (String(name.dropFirst("parentbased_".count)), true) : (name, false)
    switch parts.0 {
    case "always_on": return TraceSampler(ratio: 1, followsParent: parts.1)
    case "always_off": return TraceSampler(ratio: 0, followsParent: parts.1)
    case "traceidratio":
      let text = environment["OTEL_TRACES_SAMPLER_ARG"] ?? "1"
      guard let ratio = Double(text), (0...1).contains(ratio) else {
        throw TraceOptionsError("OTEL_TRACES_SAMPLER_ARG", "it must be a number from 0 to 1")
      }
      return TraceSampler(ratio: ratio, followsParent: parts.1)
    default:
      throw TraceOptionsError(
        "OTEL_TRACES_SAMPLER",
        "it must be always_on, always_off or traceidratio, or one of these behind parentbased_")
    }
  }
}

/// A variable of the environment that can't be used.
public struct TraceOptionsError: Error, Sendable, Hashable, CustomStringConvertible {
  public var variable: String
  var reason: String

  init(_ variable: String, _ reason: String) { (self.variable, self.reason) = (variable, reason) }

  public var description: String { "\(variable): \(reason)" }
}
