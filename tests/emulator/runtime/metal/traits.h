// Type traits, as in <metal_type_traits>.
#pragma once

namespace metal {
template <class T, T V>
struct integral_constant {
  static constexpr T value = V;
  using value_type = T;
  using type = integral_constant;
  constexpr operator T() const { return V; }
  constexpr T operator()() const { return V; }
};
template <bool B>
using bool_constant = integral_constant<bool, B>;
using true_type = bool_constant<true>;
using false_type = bool_constant<false>;

template <bool B, class T = void>
struct enable_if {};
template <class T>
struct enable_if<true, T> {
  using type = T;
};
template <bool B, class T = void>
using enable_if_t = typename enable_if<B, T>::type;
template <bool B, class T, class F>
struct conditional {
  using type = T;
};
template <class T, class F>
struct conditional<false, T, F> {
  using type = F;
};
template <bool B, class T, class F>
using conditional_t = typename conditional<B, T, F>::type;

template <class T>
T&& declval();

// A trait that clang computes: name, name_v or name, name_t.
#define EMU_TEST(name, test)           \
  template <class T>                   \
  constexpr bool name##_v = test;      \
  template <class T>                   \
  struct name : bool_constant<test> {};
#define EMU_TEST2(name, test)          \
  template <class A, class B>          \
  constexpr bool name##_v = test;      \
  template <class A, class B>          \
  struct name : bool_constant<test> {};
#define EMU_TYPE(name, made)           \
  template <class T>                   \
  using name##_t = made;               \
  template <class T>                   \
  struct name {                        \
    using type = made;                 \
  };
EMU_TEST2(is_same, __is_same(A, B))
EMU_TEST2(is_convertible, __is_convertible(A, B))
EMU_TEST2(is_base_of, __is_base_of(A, B))
EMU_TEST(is_pointer, __is_pointer(T))
EMU_TEST(is_const, __is_const(T))
EMU_TEST(is_void, __is_void(T))
EMU_TEST(is_integral, __is_integral(T))
EMU_TEST(is_unsigned, __is_unsigned(T))
EMU_TYPE(remove_reference, __remove_reference_t(T))
EMU_TYPE(remove_const, __remove_const(T))
EMU_TYPE(remove_volatile, __remove_volatile(T))
EMU_TYPE(remove_cv, __remove_cv(T))
EMU_TYPE(remove_pointer, __remove_pointer(T))
EMU_TYPE(decay, __decay(T))
EMU_TYPE(make_unsigned, __make_unsigned(T))
EMU_TYPE(make_signed, __make_signed(T))

template <class T>
using remove_addrspace_t = T;
template <class... B>
struct disjunction : bool_constant<(B::value || ...)> {};
template <class... B>
struct conjunction : bool_constant<(B::value && ...)> {};

template <class T>
constexpr METAL_FUNC T&& forward(remove_reference_t<T>& t) {
  return static_cast<T&&>(t);
}
template <class T>
constexpr METAL_FUNC remove_reference_t<T>&& move(T&& t) {
  return static_cast<remove_reference_t<T>&&>(t);
}

// A value that is the same in all threads.
template <class T>
struct uniform {
  T value;
  uniform() = default;
  constexpr uniform(T v) : value(v) {}
  constexpr operator T() const { return value; }
};
template <class T>
constexpr METAL_FUNC uniform<T> make_uniform(T v) {
  return v;
}
}  // namespace metal
