import Hummingbird

/// Whether the process is alive, and whether it can do its work. Every client gets one word. The reasons, which contain paths and
/// responses of webhook receivers, need scope `read`.
struct HealthRoutes: Sendable {
  let health: Health

  static let alivePath = "/alive"

  static func addAlive(to router: Routes) {
    router.handle("/alive", [.get: { _, _ in Response(text: "Healthy") }])
  }

  func add(to router: Routes) {
    Self.addAlive(to: router)
    router.handle(
      "/health",
      [
        .get: { _, context in
          let problems = health.problems
          var lines = [problems.isEmpty ? "Healthy" : "Unhealthy"]
          if context.mayRead { lines += problems + health.warnings.map { "warning: " + $0 } }
          return Response(
            text: lines.joined(separator: "\n"), status: problems.isEmpty ? .ok : .serviceUnavailable)
        }
      ])
  }
}
