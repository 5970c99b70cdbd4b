import HTTPTypes

/// How long requests took, by route, method and status: `http_server_request_duration_seconds`, as OpenTelemetry's semantic
/// conventions define it. And the requests that were refused before they reached a route.
///
/// All histograms exist from the start, about 1,700 in half a MiB: a request finds its own by comparing a few bytes and takes no
/// lock. Those without a request are not shown. Safe to use from any thread.
final class HTTPMetrics: Sendable {
  /// Milliseconds. Most responses take between half a millisecond and ten; a sync of a slow disk, a page of the list or an
  /// overloaded server takes longer.
  static let bounds: [Double] = [0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000]

  /// The statuses that the server sends; a simulator may be told to send others, which share the last label.
  static let statuses = [
    200, 201, 202, 204, 304, 400, 401, 402, 403, 404, 405, 408, 409, 410, 413, 414, 415, 417, 421, 422, 429, 431, 500,
    501, 502, 503, 504, 505,
  ]
  /// What OpenTelemetry calls a value that is not on its list of methods; the same for statuses here.
  static let other = "_OTHER"

  private static let methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", other]
  /// The index in ``statuses`` by status, from 100 on.
  private static let statusIndexes: [Int] = (100..<600).map { statuses.firstIndex(of: $0) ?? statuses.count }

  private struct Route: Sendable {
    let path: String
    /// By method, then by status; nil for a method that the route doesn't have.
    let series: [[DurationHistogram]?]

    init(_ path: String, methods: Set<String>) {
      self.path = path
      series = HTTPMetrics.methods.map { method in
        guard methods.contains(method) else { return nil }
        return (0...HTTPMetrics.statuses.count).map { _ in DurationHistogram(milliseconds: HTTPMetrics.bounds) }
      }
    }
  }

  /// By the length of their paths, so that a request is compared with two or three.
  private let routes: [[Route]]
  /// Requests that no route takes, by method.
  private let unrouted = Route("", methods: Set(HTTPMetrics.methods))
  private let refusals = (0...HTTPMetrics.statuses.count).map { _ in MetricCounter() }

  /// - Parameter routes: each path with its methods; HEAD comes with GET.
  init(routes: [(path: String, methods: Set<String>)] = []) {
    var byLength = [[Route]](repeating: [], count: 64)
    for (path, methods) in routes {
      byLength[path.utf8.count & 63].append(
        Route(path, methods: methods.contains("GET") ? methods.union(["HEAD"]) : methods))
    }
    self.routes = byLength
  }

  /// Counts a request that was responded to.
  ///
  /// - Parameters:
  ///   - route: the path of its route with the parameters' names; nil if there is none.
  ///   - nanoseconds: from the complete request to the response's head.
  ///   - traceParent: the request's field of this name.
  func record(
    route: String?, _ method: HTTPRequest.Method, status: Int, nanoseconds: UInt64, traceParent: String? = nil
  ) {
    let number = Self.methodIndex(method)
    let found = route.flatMap { path in routes[path.utf8.count & 63].first { $0.path == path } }
    // Proof: `unrouted` has every method.
    guard let series = found?.series[number] ?? unrouted.series[number] else { return }
    series[Self.statusIndex(status)].record(nanoseconds: nanoseconds, trace: traceParent.flatMap(TraceParent.init))
  }

  /// Counts a request that was refused before it reached a route: too large, too slow, malformed.
  func countRefusal(status: Int) { refusals[Self.statusIndex(status)].add() }

  private static func statusIndex(_ status: Int) -> Int {
    (100..<600).contains(status) ? statusIndexes[status - 100] : statuses.count
  }

  private static func methodIndex(_ method: HTTPRequest.Method) -> Int {
    switch method {
    case .get: 0
    case .head: 1
    case .post: 2
    case .put: 3
    case .patch: 4
    case .delete: 5
    case .options: 6
    default: 7
    }
  }

  private static func status(_ index: Int) -> MetricFamily.Label {
    .init("http_response_status_code", index < statuses.count ? "\(statuses[index])" : other)
  }

  var families: [MetricFamily] {
    var durations = MetricFamily(
      "http_server_request_duration_seconds", .histogram,
      "Time from a complete request to the head of its response; without http_route if no route takes the request.")
    for route in routes.joined().sorted(by: { $0.path < $1.path }) + [unrouted] {
      for (method, series) in zip(Self.methods, route.series) {
        for (index, histogram) in (series ?? []).enumerated() where !histogram.isEmpty {
          let labels = [MetricFamily.Label("http_request_method", method), Self.status(index)]
          let path = route.path.isEmpty ? [] : [MetricFamily.Label("http_route", route.path)]
          durations.add(labels + path, .histogram(histogram.snapshot))
        }
      }
    }
    var refused = MetricFamily(
      "regispay_http_refusals", .counter,
      "Requests refused before they reached a route: too large, too slow or malformed.")
    for (index, counter) in refusals.enumerated() where counter.value > 0 {
      refused.add([Self.status(index)], counter.value)
    }
    return [durations, refused]
  }
}
