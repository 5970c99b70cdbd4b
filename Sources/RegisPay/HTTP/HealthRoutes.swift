import Hummingbird

/// Whether the process lives, and whether it can do its work. Everybody gets the answer in one word; the reasons, which hold
/// paths and what receivers of webhooks said, are for those who may read.
struct HealthRoutes: Sendable {
  let health: Health

  func add(to router: Routes) {
    router.answer("/alive", [.get: { _, _ in Response(text: "Healthy") }])
    router.answer(
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
