import Foundation

/// How signals of one kind are sent to an OpenTelemetry collector by OTLP over HTTP: what the environment variables say that the
/// specification names (https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/,
/// https://opentelemetry.io/docs/specs/otel/protocol/exporter/).
public struct OTLPOptions: Sendable {
  /// A kind of signals, by its name in variables.
  enum Signal: String, CaseIterable {
    case traces = "TRACES"
    case logs = "LOGS"

    /// Behind the URL that is for all kinds.
    fileprivate var path: String { "/v1/" + rawValue.lowercased() }
    /// What gathers them, by its name in variables.
    fileprivate var processor: String {
      switch self {
      case .traces: "BSP"
      case .logs: "BLRP"
      }
    }
  }

  /// With the path.
  var url: String
  /// Sent with each request.
  var headers: [(name: String, value: String)] = []
  /// For one request.
  var timeLimit = Duration.seconds(10)
  var isCompressed = false

  init(url: String) { self.url = url }

  /// Nil if no signals of this kind are to be sent.
  ///
  /// - Parameter environment: without variables whose value is empty, which by the specification are as none.
  /// - Throws: for a value that can't be used. Variables that concern other things are not looked at.
  init?(_ signal: Signal, _ environment: [String: String]) throws(OTLPOptionsError) {
    switch environment["OTEL_SDK_DISABLED"]?.lowercased() {
    case nil, "false": break
    case "true": return nil
    default: throw OTLPOptionsError("OTEL_SDK_DISABLED", "it must be true or false")
    }
    let choice = "OTEL_\(signal.rawValue)_EXPORTER"
    switch environment[choice] {
    case nil, "otlp": break
    case "none": return nil
    case let other?: throw OTLPOptionsError(choice, "\(other) is none of otlp and none")
    }
    let variables = Variables(signal: signal, environment: environment)
    guard let url = try Self.url(variables, isAskedFor: environment[choice] != nil) else { return nil }
    self.url = url
    let (protocolName, protocolValue) = variables["PROTOCOL"]
    guard [nil, "http/json"].contains(protocolValue) else {
      throw OTLPOptionsError(protocolName, "only http/json is possible, at the port of http/protobuf (4318)")
    }
    for name in ["CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE"] {
      let (variable, value) = variables[name]
      if value != nil {
        throw OTLPOptionsError(
          variable, "not possible: a collector with https needs a certificate that the system trusts")
      }
    }
    headers = try Self.headers(variables)
    let (compressionName, compression) = variables["COMPRESSION"]
    guard [nil, "none", "gzip"].contains(compression) else {
      throw OTLPOptionsError(compressionName, "it must be none or gzip")
    }
    isCompressed = compression == "gzip"
    let (timeoutName, timeout) = variables["TIMEOUT"]
    if let timeout { timeLimit = try Self.milliseconds(timeout, timeoutName, 1...600_000) }
    let whole = "OTEL_\(signal.processor)_EXPORT_TIMEOUT"
    // For an export as a whole, which is one request here: until it is accepted it is repeated.
    if let text = environment[whole] { timeLimit = min(timeLimit, try Self.milliseconds(text, whole, 1...600_000)) }
  }

  /// The variables of one kind of signals.
  private struct Variables {
    let signal: Signal
    let environment: [String: String]

    /// The variable that counts, the one for this kind before the one for all.
    subscript(name: String) -> (String, String?) {
      let own = "OTEL_EXPORTER_OTLP_\(signal.rawValue)_\(name)"
      if let value = environment[own] { return (own, value) }
      return ("OTEL_EXPORTER_OTLP_\(name)", environment["OTEL_EXPORTER_OTLP_\(name)"])
    }
  }

  /// The variables that are looked at.
  private static let variables =
    [
      "OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG",
      "OTEL_LOGS_EXPORTER", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_BSP_SCHEDULE_DELAY",
      "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "OTEL_BLRP_SCHEDULE_DELAY", "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE",
      "OTEL_BLRP_MAX_QUEUE_SIZE", "OTEL_BSP_EXPORT_TIMEOUT", "OTEL_BLRP_EXPORT_TIMEOUT",
    ]
    + [
      "ENDPOINT", "PROTOCOL", "HEADERS", "COMPRESSION", "TIMEOUT", "CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE",
    ].flatMap { name in
      Signal.allCases.map { "OTEL_EXPORTER_OTLP_\($0.rawValue)_\(name)" } + ["OTEL_EXPORTER_OTLP_\(name)"]
    }

  /// The variables in force, as comments of YAML: a configuration file has no names for them. Secrets are hidden.
  public static func text(_ environment: [String: String]) -> String {
    shown(environment).map { "# \($0.name)=\($0.value.map(YAMLText.comment) ?? "(hidden)")\n" }.joined()
  }

  /// The variables that are set.
  public static func shown(_ environment: [String: String]) -> [ShownVariable] {
    variables.compactMap { name in
      guard let value = environment[name], !value.isEmpty else { return nil }
      return ShownVariable(name: name, value: name.hasSuffix("_HEADERS") ? nil : value)
    }
  }

  private static func url(_ variables: Variables, isAskedFor: Bool) throws(OTLPOptionsError) -> String? {
    let (name, value) = variables["ENDPOINT"]
    guard var url = value ?? (isAskedFor ? "http://localhost:4318" : nil) else { return nil }
    if name == "OTEL_EXPORTER_OTLP_ENDPOINT" {
      while url.last == "/" { url.removeLast() }
      url += variables.signal.path
    }
    do {
      _ = try Endpoint(url)
    } catch {
      throw OTLPOptionsError(name, "\(error)")
    }
    return url
  }

  static func milliseconds(
    _ text: String, _ name: String, _ range: ClosedRange<Int>
  ) throws(OTLPOptionsError) -> Duration {
    guard let number = Int(text), range.contains(number) else {
      throw OTLPOptionsError(name, "it must be \(range.lowerBound) to \(range.upperBound) milliseconds")
    }
    return .milliseconds(number)
  }

  private static func headers(_ variables: Variables) throws(OTLPOptionsError) -> [(name: String, value: String)] {
    let (name, value) = variables["HEADERS"]
    guard let pairs = pairs(value ?? "") else {
      throw OTLPOptionsError(name, "it must be name=value,name=value, with values percent-encoded")
    }
    for (index, pair) in pairs.enumerated() {
      // The message has neither the name nor the value: with a comma or = in the wrong place either may be a part of a secret.
      guard let problem = problem(pair.name, pair.value) else { continue }
      throw OTLPOptionsError(name, "header \(index + 1): \(problem)")
    }
    return pairs
  }

  /// Why this can't be sent as a header; nil if it can.
  private static func problem(_ name: String, _ value: String) -> String? {
    let isName = name.utf8.allSatisfy { byte in
      switch byte {
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
        UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "."):
        true
      default: false
      }
    }
    guard isName else { return "its name may have the letters a to z, digits, -, _ and . only" }
    guard value.utf8.allSatisfy({ (0x20..<0x7F).contains($0) }) else {
      return "its value may have printable ASCII characters only"
    }
    switch name.lowercased() {
    case "content-type", "content-length", "content-encoding", "host", "transfer-encoding", "connection":
      return "it is one of those that each request has of its own (\(name.lowercased()))"
    default: return nil
    }
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

  /// What describes the process.
  static func resource(
    _ environment: [String: String]
  ) throws(OTLPOptionsError) -> [(name: String, value: String)] {
    guard var pairs = pairs(environment["OTEL_RESOURCE_ATTRIBUTES"] ?? "") else {
      throw OTLPOptionsError(
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
}

/// A variable of the environment that can't be used.
public struct OTLPOptionsError: Error, Sendable, Hashable, CustomStringConvertible {
  public var variable: String
  var reason: String

  init(_ variable: String, _ reason: String) { (self.variable, self.reason) = (variable, reason) }

  /// One line, whatever was in the variable.
  public var description: String {
    "\(variable): "
      + String(reason.map { $0.unicodeScalars.contains { $0.value < 0x20 || $0.value == 0x7F } ? " " : $0 })
  }
}
