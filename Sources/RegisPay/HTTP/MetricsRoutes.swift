import Hummingbird
import Synchronization

/// `GET /metrics`: all metrics as text, in the format that the scraper asks for.
///
/// What is read and written happens on ``MetricsThreads``, not on an event loop. Scrapes at the same time, as of two Prometheus
/// servers, share what is read: each gets all of it. Safe to use from any task.
final class MetricsRoutes: Sendable {
  static let path = "/metrics"
  /// Scrapes at once; each holds its text in memory.
  static let scrapeLimit = 4

  private let registry: MetricsRegistry
  private let scrapes = Atomic<Int>(0)
  /// What is being read; nil while no scrape waits for it.
  private let reading = Mutex<Task<[MetricFamily], Never>?>(nil)

  init(registry: MetricsRegistry) { self.registry = registry }

  func add(to router: Routes) {
    router.handle("/metrics", [.get: { request, _ in try await self.scrape(request) }])
  }

  private func scrape(_ request: Request) async throws -> Response {
    defer { scrapes.subtract(1, ordering: .relaxed) }
    guard scrapes.add(1, ordering: .relaxed).newValue <= Self.scrapeLimit else {
      throw Problem.unavailable("\(Self.scrapeLimit) scrapes are already being responded to.")
    }
    let format = MetricsFormat(accept: request.headers[.accept])
    let families = await self.families()
    let bytes = await MetricsThreads.run { MetricsText.bytes(families, format) }
    return Response(bytes: bytes, contentType: format.contentType)
  }

  private func families() async -> [MetricFamily] {
    let task = reading.withLock { reading in
      if let task = reading { return task }
      let task = Task { [self] in
        let families = await registry.families()
        self.reading.withLock { $0 = nil }
        return families
      }
      reading = task
      return task
    }
    return await task.value
  }
}
