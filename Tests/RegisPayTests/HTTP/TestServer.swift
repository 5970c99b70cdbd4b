import AsyncHTTPClient
import Logging
import NIOCore
import Testing

@testable import RegisPay

/// A server in this process, on a free port, spoken to over real HTTP.
struct TestServer: Sendable {
  let url: String

  struct Response: Sendable {
    var status: Int
    var headers: [String: String]
    var text: String

    /// The body as JSON, its numbers as text.
    func json() throws -> JSONValue { try JSONReader.read(Array(text.utf8)) }
  }

  /// Runs a server while `work` runs.
  ///
  /// - Parameter metrics: gets the server's metrics.
  static func run(
    _ change: (inout ServerOptions) -> Void = { _ in }, metrics: MetricsRegistry = MetricsRegistry(),
    logger: Logger = silent,
    _ work: @escaping @Sendable (TestServer) async throws -> Void
  ) async throws {
    try await places.use {
      try await withTemporaryFolder { folder in
        var options = ServerOptions(directory: folder + "/data")
        options.port = 0
        options.segmentBytes = 1 << 20
        options.simulatorSegmentBytes = 1 << 20
        options.consumer.backoff = Backoff(base: .milliseconds(10), cap: .milliseconds(50))
        options.breaker = .init(failureLimit: 5, openDuration: .milliseconds(50))
        change(&options)
        let server = try Server.open(options, logger: logger, metrics: metrics)
        let addresses = AsyncStream<String>.makeStream()
        let run = Task {
          defer { addresses.continuation.finish() }
          try await server.run { addresses.continuation.yield($0) }
        }
        let result: Result<Void, any Error>
        do {
          // Without one the server could not start, which its task then throws.
          if let url = await addresses.stream.first(where: { _ in true }) { try await work(TestServer(url: url)) }
          result = .success(())
        } catch {
          result = .failure(error)
        }
        server.stop()
        try await run.value
        try result.get()
      }
    }
  }

  /// Those that run at once. Each has some twenty threads, and its queues share those of the process, of which there are 255: with all
  /// tests' servers at once none is left, and each waits for another.
  private static let places = TestPlaces(24)

  func send(
    _ method: String, _ path: String, headers: [(String, String)] = [], body: [UInt8]? = nil
  ) async throws -> Response {
    var request = HTTPClientRequest(url: url + path)
    request.method = .RAW(value: method)
    for (name, value) in headers { request.headers.add(name: name, value: value) }
    if let body { request.body = .bytes(ByteBuffer(bytes: body)) }
    let response = try await HTTPClient.shared.execute(request, timeout: .seconds(600))
    let bytes = try await response.body.collect(upTo: 16 << 20)
    return Response(
      status: Int(response.status.code),
      headers: Dictionary(response.headers.map { ($0.name.lowercased(), $0.value) }, uniquingKeysWith: { $1 }),
      text: String(decoding: bytes.readableBytesView, as: UTF8.self))
  }

  func get(_ path: String, accept: String? = nil) async throws -> Response {
    try await send("GET", path, headers: accept.map { [("Accept", $0)] } ?? [])
  }

  func create(
    _ body: String, path: String = "/api/payment/create", contentType: String? = "application/json"
  ) async throws -> Response {
    try await send("POST", path, headers: contentType.map { [("Content-Type", $0)] } ?? [], body: Array(body.utf8))
  }
}
