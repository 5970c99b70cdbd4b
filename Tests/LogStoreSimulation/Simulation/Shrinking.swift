@testable import LogStore

extension Plan {
  /// The shortest variant of a history that still fails.
  ///
  /// Threads run in another order when something is left out, so each variant is tried with a few orders.
  func shrunk(runsMax: Int = 4000, pool: () -> FiberPool) -> (plan: Plan, outcome: Simulation.Outcome) {
    var best = self
    var runs = 0
    var outcome = Simulation.run(best, pool: pool())
    func tries(_ change: (inout Plan) -> Void) -> Bool {
      var candidate = best
      change(&candidate)
      for attempt in 0..<UInt64(6) where runs < runsMax {
        runs += 1
        if attempt > 0 { candidate.schedule = best.schedule &+ attempt &* 0x9E37_79B9 }
        let result = Simulation.run(candidate, pool: pool())
        if result.problem != nil {
          best = candidate
          outcome = result
          return true
        }
      }
      return false
    }
    var isSmaller = true
    while isSmaller, runs < runsMax {
      isSmaller = false
      var number = best.lives.count - 1
      while number >= 0 {
        if best.lives.count > 1, tries({ $0.lives.remove(at: number) }) { isSmaller = true }
        number -= 1
      }
      for number in best.lives.indices {
        // Halves first, then one after the other.
        var size = max(best.lives[number].steps.count / 2, 1)
        while size >= 1 {
          var start = best.lives[number].steps.count - size
          while start >= 0 {
            let end = min(start + size, best.lives[number].steps.count)
            if start < end, tries({ $0.lives[number].steps.removeSubrange(start..<end) }) { isSmaller = true }
            start -= size
          }
          size /= 2
        }
        if !best.lives[number].failures.isEmpty, tries({ $0.lives[number].failures = [] }) { isSmaller = true }
        if best.lives[number].damage != nil, tries({ $0.lives[number].damage = nil }) { isSmaller = true }
        if best.lives[number].isRead, tries({ $0.lives[number].isRead = false }) { isSmaller = true }
        if best.lives[number].dieAt != nil, tries({ $0.lives[number].dieAt = nil }) { isSmaller = true }
        if best.lives[number].end != .close, tries({ $0.lives[number].end = .close }) { isSmaller = true }
      }
      if best.noise.interruptsOneIn > 0, tries({ $0.noise.interruptsOneIn = 0 }) { isSmaller = true }
      if best.noise.writesBackOneIn > 0, tries({ $0.noise.writesBackOneIn = 0 }) { isSmaller = true }
      if best.noise.setsClockOneIn > 0, tries({ $0.noise.setsClockOneIn = 0 }) { isSmaller = true }
    }
    return (best, outcome)
  }
}
