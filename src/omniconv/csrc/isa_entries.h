// SPDX-License-Identifier: Apache-2.0
// The entries of one instruction set that have a file of their own, kernels_*.cpp, in the namespace OMNICONV_ISA.
#pragma once

#include "kernels.h"

namespace omniconv {
namespace OMNICONV_ISA {

void sums(const Problem&, bool scatter, const View& input, const View& output, const Weights&, const void* bias,
          const Host&);
int64_t pointwise(const Pointwise&, float* workspace, const Host&);
int64_t pack(const Pointwise&, float* to, const Host&);
// Those of a call with `taps`.
int64_t implicit(const Pointwise&, float* workspace, const Host&);
int64_t pack_implicit(const Pointwise&, float* to, const Host&);
int64_t pointwise_gradient(const Pointwise&, const Matrix& gradient, float* workspace, const Host&);
int64_t normed_gradient(const Normed&, const Pointwise&, const Pointwise* back, const Matrix& gradient,
                        float* workspace, const Host&);
int64_t fused(const Fused&, float* workspace, const Host&);
void follow(const Followed&, const Host&);
int64_t activation_gradient(const ActivationGradient&, float* workspace, const Host&);
int64_t norm_sums(const Normed&, double* totals, float* workspace, const Host&);
void normalize(const Normed&, const Host&);
void dynamic(const Dynamic&, const View& output, const void* bias, const Host&);
int64_t dynamic_gradient(const Dynamic&, const View& grad, const DynamicGradients&, float* workspace, const Host&);

}  // namespace OMNICONV_ISA
}  // namespace omniconv
